"""Operations and bytes of a config's model, layer by layer; needs no data set and no weights.

python tools/get_flops.py CONFIG [--shape H W | L] [--cfg-options KEY=VALUE ...]
"""

import argparse


def main(argv: list[str] | None = None) -> None:
    """Parse, count, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", help="config file of a detector, a classifier or a BERT")
    parser.add_argument(
        "--shape", nargs="+", type=int, metavar="N", help="H W of the image, or tokens; default: the data's"
    )
    parser.add_argument("--cfg-options", nargs="+", action="extend", metavar="KEY=VALUE", help="override the config")
    args = parser.parse_args(argv)

    # After parsing, so that --help and a wrong option answer at once.
    from rebnn_mm.analysis import format_table
    from rebnn_mm.integrations.build import read_config
    from rebnn_mm.integrations.config import read_words
    from rebnn_mm.workflows.endings import one_sentence
    from rebnn_mm.workflows.inspection import count_config, input_shape

    with one_sentence("get_flops"):
        cfg = read_config(args.config, read_words(args.cfg_options))
        shape = tuple(args.shape) if args.shape else input_shape(cfg)
        count = count_config(cfg, shape)
    print(format_table(count))
    if len(shape) == 1:
        print(f"for one text of {shape[0]} tokens")
        return
    print(f"for one image of {shape[0]} x {shape[1]} (height x width) before the config's padding")
    rpn = (cfg.model.get("test_cfg") or {}).get("rpn")
    if rpn:
        print(f"RoI heads: counted for test_cfg.rpn.max_per_img = {rpn.max_per_img} proposals, the most there can be")


if __name__ == "__main__":
    main()
