"""`write_run` writes a run folder as `alframe` does, with a curve that the test chooses."""

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
