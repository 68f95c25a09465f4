"""What passes made, beside the original: size, accuracy and measured speed in each runtime.

    python benchmarks/compression_speed.py brief-net half quarter half-int8 --test test.parquet \\
        --preprocess 'scale=1/255 ...' --keep FOLDER

The first folder is the original, the others what `prune`, `distil`, `finetune` or `convert` wrote.
A model is exported in float32 to each format of --to, an artefact is taken as it is; both are
timed in turns with the original in float32 in that format, by the protocol of `compare`. FOLDER
keeps exports and scores, so that a second call only measures latency: on an idle machine.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from lepton_edge import accuracy, compression, inspection, latency
from lepton_edge.artifact import NAME, Artifact
from lepton_edge.conversion import convert
from lepton_edge.loading import Subject
from lepton_edge.measurement import Accuracy
from lepton_edge.model import ModelSource
from lepton_edge.preprocess import Preprocess
from lepton_edge.samples import Samples, open_samples
from lepton_edge.scores import SUFFIX, Scores


def scores(subject: Subject, name: str, test: Samples, keep: Path) -> Scores:
    """Those that an earlier call kept, else new ones."""
    path = keep / f"{name}{SUFFIX}"
    if not path.exists():
        keep.mkdir(parents=True, exist_ok=True)
        accuracy.score(subject, test).save(path)
    return Scores.load(path)


def exported(source: ModelSource, name: str, format: str, keep: Path) -> Artifact:
    """The model in float32 in that format, exported once."""
    place = keep / f"{name}-{format}"
    if (place / NAME).exists():
        return Artifact.load(place)
    return convert(source, to=format, output=place)


def of_folder(folder: Path) -> ModelSource:
    weights = folder / f"{folder.name}.safetensors"
    return ModelSource(f"{folder / compression.MODEL}:factory", str(weights))


def drop(found: Accuracy) -> str:
    assert found.drop is not None
    assert found.drop_interval is not None
    low, high = (100 * each for each in found.drop_interval)
    return f"{100 * found.value:.2f} % | {100 * found.drop:+.2f} pt [{low:+.2f}, {high:+.2f}]"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("original", type=Path)
    parser.add_argument("made", type=Path, nargs="+")
    parser.add_argument("--test", required=True)
    parser.add_argument("--preprocess")
    parser.add_argument("--to", default="onnx,openvino,tflite")
    parser.add_argument("--window", default="quick", help="quick, official, or RUNS,SECONDS")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--keep", type=Path, required=True, help="exports and scores go here")
    parser.add_argument("--no-time", action="store_true", help="sizes and accuracy alone")
    options = parser.parse_args()

    preprocess = Preprocess.parse(options.preprocess) if options.preprocess else None
    test, keep = open_samples(options.test, preprocess=preprocess), options.keep
    name, original = options.original.name, of_folder(options.original)
    whole = inspection.inspect(original)
    baseline = scores(original, name, test, keep)
    print("| | format | MACs | bytes | top-1 | drop [95 %] | p50, ms | times as fast [95 %] |")
    print("|---|---|---|---|---|---|---|---|")
    top1 = f"{100 * baseline.score.mean():.2f} %"
    print(f"| {name} | | {whole['macs']:,} | {whole['size_bytes']:,} | {top1} | | | |")
    for folder in options.made:
        artifact = Artifact.load(folder) if (folder / NAME).exists() else None
        subject: Subject = folder if artifact is not None else of_folder(folder)
        drops = drop(accuracy.judge(scores(subject, folder.name, test, keep), baseline))
        places = options.to.split(",") if artifact is None else [artifact.format]
        for format in places:
            before = exported(original, name, format, keep)
            after = artifact
            if after is None:
                assert isinstance(subject, ModelSource)
                after = exported(subject, folder.name, format, keep)
            macs, size = "", int(after.describe()["size_bytes"])
            if artifact is None:
                count = inspection.inspect(subject)["macs"]
                macs = f"{count:,} (x{count / whole['macs']:.3f})"
            shrunk = int(before.describe()["size_bytes"]) / size
            cells = [
                folder.name,
                f"{format} {after.precision}",
                macs,
                f"{size:,} (1/{shrunk:.1f})",
                drops,
            ]
            if options.no_time:
                cells += ["", ""]
            else:
                times = latency.compare(
                    before.folder, after.folder, window=options.window, threads=options.threads
                )
                first, second = (
                    sorted(each)[len(each) // 2] for each in (times.a_p50_ms, times.b_p50_ms)
                )
                low, high = (1 / each for each in reversed(times.interval))
                cells += [
                    f"{first:.3f} -> {second:.3f}",
                    f"{1 / times.ratio:.2f} [{low:.2f}, {high:.2f}] {times.verdict}",
                ]
            print(f"| {' | '.join(cells)} |", flush=True)
    print(f"\nn = {len(test):,}, paired; {options.threads} thread(s), batch 1, five pairs of"
          f" processes in turns, window {options.window}")  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
