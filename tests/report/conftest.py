"""`write_run` writes a run folder as `alframe` does, with a curve that the test chooses; `write_ledger` adds what it bought."""

import json

import pytest
import yaml

CHOICES = {
    "dataset": "elpv", "model": "small_cnn", "trainer": "sgd", "uncertainty": "mc_dropout", "strategy": "random",
    "budget": "default", "annotator": "oracle",
}  # fmt: skip


@pytest.fixture
def write_run(tmp_path):
    """`write_run(strategy, seed, values, ...)` gives the folder; `**choices` by group, `options` by dotted path."""

    def write(
        strategy="random", seed=0, values=(0.5, 0.6, 0.7), labels=None, *, study="study", classes=("good", "defective"),
        data_hash="abc", dataset="elpv", stopped="budget spent", metric="test/accuracy", options=None, more=None, **choices,
    ):  # fmt: skip
        chosen = CHOICES | {"strategy": strategy, "dataset": dataset} | choices
        config = {group: {"_target_": f"alframe.{group}.{leaf}.Leaf"} for group, leaf in chosen.items()}
        config["budget"] |= {"initial": 100, "query_size": 10, "rounds": 2, "count_validation": True}
        config |= {"seed": seed, "choices": chosen}
        for path, value in (options or {}).items():
            *above, key = path.split(".")
            node = config
            for part in above:
                node = node.setdefault(part, {})
            node[key] = value
        marks = "_".join(f"{path}={value}" for path, value in (options or {}).items())
        folder = tmp_path / study / "_".join(filter(None, [*chosen.values(), marks])) / f"seed={seed}"
        folder.mkdir(parents=True)
        labels = labels or [100 + 10 * i for i in range(len(values))]
        lines = [
            {"round": i, "labels": bought, metric: value, "test/nll": 1 - value, "fit_s": 0.5, "stopped": None}
            | (more or {})
            for i, (bought, value) in enumerate(zip(labels, values, strict=True))
        ]
        lines[-1]["stopped"] = stopped
        (folder / "config.yaml").write_text(yaml.safe_dump(config))
        (folder / "rounds.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        provenance = {"dataset": dataset, "classes": list(classes), "data_hash": data_hash}
        (folder / "provenance.json").write_text(json.dumps(provenance))
        return folder

    return write


@pytest.fixture
def write_ledger():
    """`write_ledger(folder, labels)` writes ledger and stage files: `labels` by round of purchase, round 0 the initial ones.

    By default as many as `rounds.jsonl` says, of alternating classes. Images are numbered from `start` on, in the order of asking.
    """

    def write(folder, labels=None, *, start=0, time_s=0.0, predicted=None, reliability=None):
        rounds = [json.loads(line) for line in (folder / "rounds.jsonl").read_text().splitlines()]
        counts = [line["labels"] for line in rounds]
        labels = labels or [[i % 2 for i in range(n - before)] for before, n in zip([0, *counts], counts, strict=False)]
        ledger, index = [], start
        for round, answers in enumerate(labels):
            for rank, label in enumerate(answers):
                kind = "query" if round else "initial"
                answer = {"id": f"{index}-0", "index": index, "kind": kind, "label": label, "annotator": "oracle"}
                ledger.append(answer | {"round": round, "rank": rank, "score": 0.5, "time_s": time_s})
                index += 1
        (folder / "ledger.jsonl").write_text("".join(json.dumps(line) + "\n" for line in ledger))
        (folder / "queries").mkdir(exist_ok=True)
        for line in rounds:
            asked = [answer for answer in ledger if answer["round"] == line["round"] + 1]
            probs = [[0.9, 0.1], [0.1, 0.9]]
            questions = [
                {key: answer[key] for key in ("id", "index", "kind", "round", "rank")}
                | {"probs": probs[answer["label"] or 0 if predicted is None else predicted]}
                for answer in asked
            ]
            stage = {"line": line, "evaluation": {"reliability": reliability}, "questions": questions}
            (folder / "queries" / f"round_{line['round']:03d}.json").write_text(json.dumps(stage))
        return folder

    return write
