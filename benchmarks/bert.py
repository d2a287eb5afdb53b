"""A packed 1-bit BERT-base beside its real-valued twin and torch's dynamic int8, random weights, one thread.

python benchmarks/bert.py [--tokens 128] [--batch 1] [--level 1-1-1] [--rounds 11]

The packed model is first compared with the trained one, bit for bit. Times are CPU time; a ratio is the median of the
rounds' own.
"""

import argparse
import tempfile
from pathlib import Path

import torch
from torch import nn

from rebnn_mm.deploy import Check, export_model, load_model
from rebnn_mm.integrations.bert import LEVELS, BertClassifier, token_noise
from rebnn_mm.kept_memory import keep_freed_memory
from rebnn_mm.workflows.timing import candidate, compare, format_timings, machine

BASE = dict(hidden_size=768, num_hidden_layers=12, num_attention_heads=12, intermediate_size=3072)


def main() -> None:
    """Build, export, time, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--level", choices=list(LEVELS), default="1-1-1")
    parser.add_argument("--rounds", type=int, default=11)
    args = parser.parse_args()

    torch.set_num_threads(1)
    keep_freed_memory()
    print(machine())
    inputs = token_noise(dict(bert=BASE), (args.tokens,) * args.batch)
    real = BertClassifier("rte", BASE, dict(type="Linear")).eval()
    trained = BertClassifier("rte", BASE, dict(type="ReBNNLinear"), args.level).eval()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "bert.rebnn"
        report = export_model(trained, file, check=Check([inputs], lambda part, x: part(x)))
        packed = load_model(file, model=trained)
    int8 = torch.ao.quantization.quantize_dynamic(real, {nn.Linear}, dtype=torch.qint8)
    print(f"{report.before:,} bytes as trained, {report.size:,} packed")
    calls = {f"packed {args.level}": packed, "real-valued fp32": real, "int8 dynamic": int8}
    candidates = {
        name: candidate(lambda part=part: part(inputs), threads=1, clock="cpu") for name, part in calls.items()
    }
    print(format_timings(compare(candidates, args.rounds)))


if __name__ == "__main__":
    main()
