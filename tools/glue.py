"""Train and evaluate a BERT config on several GLUE tasks and print their table.

python tools/glue.py CONFIG [--tasks cola mrpc ...] [--resume] [--submission DIR] [--cfg-options KEY=VALUE ...]
"""

import argparse

from rebnn_mm.bert import TASKS
from rebnn_mm.workflows import launch
from rebnn_mm.workflows.endings import one_sentence


def main(argv: list[str] | None = None) -> None:
    """Parse, train and evaluate, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", help="config file of a BERT")
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), metavar="TASK", help="default: all nine")
    parser.add_argument("--resume", action="store_true", help="skip finished tasks, go on with the stopped one")
    parser.add_argument("--submission", metavar="DIR", help="write predictions on the test sets for GLUE's server")
    launch.add_run_arguments(parser)
    args = parser.parse_args(argv)

    with one_sentence("glue"):
        from rebnn_mm.workflows.glue import format_glue, read_tasks, run_tasks

        results = run_tasks(read_tasks(args), args.resume, args.submission)
    print(format_glue(results))


if __name__ == "__main__":
    main()
