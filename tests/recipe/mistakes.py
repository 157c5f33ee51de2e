"""Mistakes that people make in recipes: what is wrong, which key is named, and the remedy."""

from __future__ import annotations

from typing import Any, NamedTuple

GONE = object()
"""The value of a key that is left out."""

TRAIN = {"steps": 10, "tokens_per_step": 128, "lora": {"rank": 2}}
SINGLE: dict[str, Any] = {
    "output": "runs/one",
    "teacher": {"kind": "local", "model": "teacher"},
    "student": {"kind": "layers", "count": 2},
    "data": {
        "sources": [
            {"kind": "jsonl", "path": "train.jsonl"},
            {"kind": "parquet", "path": "train.parquet"},
            {"kind": "dataset", "path": "saved"},
            {"kind": "hub", "name": "some/thing"},
            {"kind": "memory", "data": [{"text": "a"}]},
        ],
        "sequence_length": 64,
    },
    "objectives": [{"kind": "task", "weight": 0.5}, {"kind": "output", "temperature": 2.0}],
    "train": TRAIN,
    "evaluate": {"samples": 1},
}
STAGE = {"name": "warm", "objectives": [{"kind": "output"}], "train": TRAIN}
STAGED: dict[str, Any] = {
    **{key: value for key, value in SINGLE.items() if key not in ("objectives", "train")},
    "stages": [STAGE, {**STAGE, "name": "main"}],
}


class Mistake(NamedTuple):
    """One key of a good recipe has a value that it cannot have, or should not be there."""

    spec: str
    """Whose key it is."""
    place: str
    """The key that is set, as --set would name it."""
    value: Any
    remedy: str
    """Stands in the message, letter by letter."""
    named: str = ""
    """The key that the message names, if it is not that of the place."""


def of(spec: str, place: str, *wrong: tuple[Any, str] | tuple[Any, str, str]) -> list[Mistake]:
    return [Mistake(spec, place, *each) for each in wrong]


PRETRAINED = {"kind": "pretrained", "model": "s"}
SHORT = {"steps": 10, "tokens_per_step": 128}


def distilled(**changes: Any) -> dict[str, Any]:
    """A quantisation whose distillation is good, but for the changes."""
    return {"scheme": "int4", "distill": {"train": SHORT, **changes}}


RECIPE = [
    *of("Recipe", "output", (GONE, "add it"), (3, "string")),
    *of(
        "Recipe", "seed", (-1, "greater than or equal to 0"), (2**63, "less than"), ("x", "intege")
    ),
    *of("Recipe", "teacher", (GONE, "add it"), ("Qwen/Qwen3-8B", "a mapping of keys to values")),
    *of("Recipe", "student", (GONE, "add it"), ([], "a mapping of keys to values")),
    *of("Recipe", "data", (GONE, "add it"), ("train.jsonl", "a mapping of keys to values")),
    *of("Recipe", "objectives", (GONE, "add it"), ([], "at least 1"), ({"kind": "task"}, "a list")),
    *of("Recipe", "train", (GONE, "add it"), ([{"steps": 1}], "a mapping of keys to values")),
    *of("Recipe", "techer", ({}, "did you mean 'teacher'?")),
    *of("Recipe", "learning_rate", (1e-4, "'train.learning_rate'")),
    *of("Recipe", "stages", ([STAGE], "keep one or the other"), ("warm", "a list")),
]
MODELS = [
    *of("LocalTeacherSpec", "teacher.kind", ("remote", "'local'")),
    *of("LocalTeacherSpec", "teacher.model", (GONE, "add it"), (7, "in quotes")),
    *of("LocalTeacherSpec", "teacher.dtype", ("bfloat", "mean 'bfloat16'?"), (16, "'auto'")),
    *of("LocalTeacherSpec", "teacher.trust_remote_code", ("sure", "boolean")),
    *of("LocalTeacherSpec", "teacher.revision", (1.0, "in quotes")),
    *of("LocalTeacherSpec", "teacher.gguf_file", (True, "in quotes")),
    *of("LocalTeacherSpec", "teacher.modle", ("x", "did you mean 'model'?")),
    *of("LocalTeacherSpec", "teacher.temperature", (2.0, "'objectives[0].temperature'")),
    *of("Layers", "student.kind", ("layer", "did you mean 'layers'?"),
        (GONE, "add one of layers, pretrained, pruned, scratch", "'student' has no 'kind'")),
    *of("Layers", "student.count", (0, "greater than or equal to 1"), 
        (GONE, "add how many layers", "needs count")),
    *of("Layers", "student.pick", ("evenly", "did you mean 'evenly_spaced'?"), 
        ([2, 0], "increasing", "'student': pick"), ([0, 1, 2], "drop count", "'student': pick"),
         ([-1], "greater than or equal to 0", "student.pick[0]")),
    *of("Layers", "student.model", ("x", "Known: count, kind, pick")),
    *of("Pretrained", "student", ({"kind": "pretrained"}, "add it", "student.model"),
        ({**PRETRAINED, "dtype": "bfloat16"}, "set train.precision", "student.dtype"),
        ({**PRETRAINED, "modle": "x"}, "did you mean 'model'?", "student.modle")),
    *of("Scratch", "student", ({"kind": "scratch"}, "add it", "student.config"),
        ({"kind": "scratch", "config": 3}, "path", "student.config"),
        ({"kind": "scratch", "config": "c", "size": 9}, "Known: config", "student.size")),
    *of("Pruned", "student", ({"kind": "pruned"}, "add one", "'student'"),
        ({"kind": "pruned", "target_params": 0}, "target: 0.75", "student.target_params"),
        ({"kind": "pruned", "target_params": 1e8, "strategy": "activations"}, "'activation'",
         "student.strategy")),
    *of("Shape", "student", ({"kind": "pruned", "shape": {"layers": 0}},
        "greater than or equal to 1", "student.shape.layers"),
        ({"kind": "pruned", "shape": {"neuron": 64}}, "did you mean 'neurons'?",
         "student.shape.neuron")),
    *of("Search", "student",
        ({"kind": "pruned", "target_params": 1e8, "search": {"candidates": 1}},
         "greater than or equal to 2", "student.search.candidates"),
        ({"kind": "pruned", "target_params": 1e8, "search": {"token": 9}}, "did you mean 'tokens'?",
         "student.search.token")),
    *of("Scheme", "teacher.quantize", ({"scheme": "int4", "group_size": 0},
        "greater than or equal to 1", "teacher.quantize.group_size")),
    *of("Quantize", "quantize", ({}, "add it", "quantize.scheme"),
        ({"scheme": "int5"}, "'int4'", "quantize.scheme"),
        ({"scheme": "int4", "group_size": 0}, "greater than or equal to 1", "quantize.group_size"),
        ({"scheme": "int8_dynamic", "group_size": 32}, "or take int8", "quantize"),
        ({"scheme": "int8_dynamic", "distill": {"train": SHORT}}, "drop distill", "quantize"),
        ({"scheme": "int4", "distil": {}}, "did you mean 'distill'?", "quantize.distil")),
    *of("QuantizeDistill", "quantize", (distilled(parameters="scale"), "did you mean 'scales'?",
        "quantize.distill.parameters"),
        ({"scheme": "int4", "distill": {}}, "add it", "quantize.distill.train"),
        (distilled(train={"tokens_per_step": 128}), "add it", "quantize.distill.train.steps"),
        (distilled(train={**SHORT, "tokens_per_step": 100}), "Set it to 64 or 128",
         "quantize.distill.train.tokens_per_step"),
        (distilled(train={**SHORT, "lora": {"rank": 2}}), "drop lora", "quantize.distill.train"),
        (distilled(train={**SHORT, "precision": "pure_bf16"}), "set it to bf16 or fp32",
         "quantize.distill.train"),
        (distilled(train={**SHORT, "parallel": "fsdp2"}), "set it to ddp or auto",
         "quantize.distill.train"),
        (distilled(learning_rate=1e-4), "'quantize.distill.train.learning_rate'",
         "quantize.distill.learning_rate")),
]  # fmt: skip
DATA = [
    *of("DataSpec", "data.sources", (GONE, "add it"), ([], "name a source"), ({}, "a list")),
    *of("DataSpec", "data.heldout", ("held.jsonl", "a list")),
    *of("DataSpec", "data.weights", ([0.5], "a mapping of keys to values"),
        ({"math": "half"}, "number", "data.weights.math")),
    *of("DataSpec", "data.sequence_length", (1, "greater than or equal to 2"), ("long", "integer"),
        (96, "Set it to 96 or 192", "train.tokens_per_step")),
    *of("DataSpec", "data.packing", ("maybe", "boolean")),
    *of("DataSpec", "data.over_long", ("cut", "'truncate'")),
    *of("DataSpec", "data.on_bad_row", ("skipp", "did you mean 'skip'?")),
    *of("DataSpec", "data.special_tokens", ("keep", "'escape'")),
    *of("DataSpec", "data.sequence_lenght", (64, "did you mean 'sequence_length'?")),
    *of("Jsonl", "data.sources.0.kind", ("json", "did you mean 'jsonl'?"),
        (GONE, "jsonl", "'data.sources[0]' has no 'kind'")),
    *of("Jsonl", "data.sources.0.path", (GONE, "add it"), (["a", "b"], "string")),
    *of("Jsonl", "data.sources.0.limit", (0, "greater than or equal to 1")),
    *of("Jsonl", "data.sources.0.task", (7, "in quotes")),
    *of("Jsonl", "data.sources.0.pth", ("x", "did you mean 'path'?")),
    *of("Parquet", "data.sources.1.path", (GONE, "add it")),
    *of("Parquet", "data.sources.1.split", ("train", "Known: kind, limit, path, task")),
    *of("LocalDataset", "data.sources.2.split", (3, "in quotes")),
    *of("Hub", "data.sources.3.name", (GONE, "add it")),
    *of("Hub", "data.sources.3.streaming", ("often", "boolean")),
    *of("Hub", "data.sources.3.path", ("x", "Known: kind, limit, name, revision")),
    *of("InMemory", "data.sources.4.data", ("text", "a list of dicts"), (GONE, "add it")),
]  # fmt: skip
OBJECTIVES = [
    *of("Task", "objectives.0.weight", (-1, "greater than or equal to 0"), ("lots", "number")),
    *of("Task", "objectives.0.temperature", (2.0, "Known: kind, name, weight")),
    *of("Task", "objectives.0.kind", ("tsk", "did you mean 'task'?")),
    *of("Linear", "objectives.0.weight", ({"kind": "linear", "start": 0}, "add it",
        "objectives[0].weight.end"), ({"start": 0, "end": 1}, "linear", "objectives[0].weight")),
    *of("Cosine", "objectives.0.weight", ({"kind": "cosine", "start": -1, "end": 1},
        "greater than or equal to 0", "objectives[0].weight.start"),
        ({"kind": "cosin", "start": 0, "end": 1}, "mean 'cosine'?", "objectives[0].weight")),
    *of("WarmupStableDecay", "objectives.0.weight", ({"kind": "wsd"}, "add it",
        "objectives[0].weight.peak"), ({"kind": "wsd", "peak": 1, "warmup": 0.9, "decay": 0.9},
        "lower one of them"), ({"kind": "wsd", "peak": 1, "warmup": 2}, "less than or equal to 1",
        "objectives[0].weight.warmup")),
    *of("Output", "objectives.1.divergence", ("revers_kl", "did you mean 'reverse_kl'?"),
        ("kl", "forward_kl"), (3, "string")),
    *of("Output", "objectives.1.temperature", (0, "greater than 0"), (float("nan"), "finite"),
        ("warm", "number")),
    *of("Output", "objectives.1.beta", (0.5, "use jsd", "'objectives[1]': 'beta'"),
        (2, "less than or equal to 1")),
    *of("Output", "objectives.1", ({"kind": "output", "divergence": "skew_kl", "skew": 1.0},
        "less than 1", "objectives[1].skew"), ({"kind": "output", "skew": 0.1}, "use skew_kl"),
        ({"kind": "output", "divergence": "adaptive_kl", "head_mass": 0}, "greater than 0",
         "objectives[1].head_mass"), ({"kind": "task"}, "give each a 'name'", "objectives")),
    *of("Output", "objectives.1.square_temperature", ("sometimes", "boolean")),
    *of("Output", "objectives.1.temprature", (2.0, "did you mean 'temperature'?")),
]  # fmt: skip
TRAINING = [
    *of("TrainSpec", "train.steps", (GONE, "add it"), (0, "greater than or equal to 1"),
        (1.5, "integer"), ("many", "integer")),
    *of("TrainSpec", "train.tokens_per_step", (100, "Set it to 64 or 128")),
    *of("TrainSpec", "train.micro_batch_rows", (0, "greater than or equal to 1")),
    *of("TrainSpec", "train.learning_rate", (0, "greater than 0"), ("fast", "number"),
        (float("inf"), "finite")),
    *of("TrainSpec", "train.schedule", ("cosin", "did you mean 'cosine'?")),
    *of("TrainSpec", "train.warmup_steps", (-1, "greater than or equal to 0")),
    *of("TrainSpec", "train.decay_share", (2, "less than or equal to 1")),
    *of("TrainSpec", "train.betas", ([0.9], "add it", "train.betas[1]"), (0.9, "a list"),
        ([0.9, 1.0], "less than 1", "train.betas[1]")),
    *of("TrainSpec", "train.weight_decay", (-0.1, "greater than or equal to 0")),
    *of("TrainSpec", "train.clip_gradient", (0, "greater than 0")),
    *of("TrainSpec", "train.precision", ("fp16", "'bf16'"), ("bf-16", "did you mean 'bf16'?")),
    *of("TrainSpec", "train.compile", ("always", "'auto'")),
    *of("TrainSpec", "train.save_every", (0, "greater than or equal to 1")),
    *of("TrainSpec", "train.keep_checkpoints", (0, "greater than or equal to 1")),
    *of("TrainSpec", "train.dashboard", ("tensorbord", "did you mean 'tensorboard'?")),
    *of("TrainSpec", "train.learning_rat", (1e-4, "did you mean 'learning_rate'?")),
    *of("TrainSpec", "train.sequence_length", (64, "'data.sequence_length'")),
    *of("LoraSpec", "train.lora", (True, "a mapping of keys to values")),
    *of("LoraSpec", "train.lora.rank", (0, "greater than or equal to 1")),
    *of("LoraSpec", "train.lora.dropout", (1, "less than 1")),
    *of("LoraSpec", "train.lora.targets", (3, "string")),
    *of("LoraSpec", "train.lora.r", (8, "Known: alpha, dropout, rank, targets")),
    *of("EvaluateSpec", "evaluate.samples", (-1, "greater than or equal to 0")),
    *of("EvaluateSpec", "evaluate.sample_tokens", (0, "greater than or equal to 1")),
    *of("EvaluateSpec", "evaluate.sampels", (3, "did you mean 'samples'?")),
    *of("EvaluateSpec", "evaluate.batch_sizes", ([], "at least 1"),
        ([0], "greater than or equal to 1", "evaluate.batch_sizes[0]")),
    *of("EvaluateSpec", "evaluate.tasks", ([{"kind": "choices", "path": "a"}], "'choice'")),
    *of("CheckSpec", "check", ({"stop": "perhaps"}, "boolean", "check.stop")),
    *of("Choice", "evaluate.tasks", ([{"kind": "choice"}], "add it"),
        ([{"kind": "choice", "path": "a.jsonl", "limit": 0}], "greater than or equal to 1")),
    *of("Cloze", "evaluate.tasks", ([{"kind": "cloze", "path": "a.jsonl", "limt": 3}],
        "did you mean 'limit'?")),
    *of("Classification", "evaluate.tasks", ([{"kind": "classification"}], "add it")),
    *of("Generation", "evaluate.tasks",
        ([{"kind": "generation", "path": "a.jsonl", "max_new_tokens": 0}],
         "greater than or equal to 1")),
    *of("LmEval", "evaluate.tasks", ([{"kind": "lm_eval"}], "needs the 'name'")),
]  # fmt: skip
STAGES = [
    *of("Stage", "stages.0.name", (GONE, "add it"), ("a b", "letters"),
        ("main", "give each its own", "stages")),
    *of("Stage", "stages.0.train", (GONE, "add it")),
    *of("Stage", "stages.0.objectives", (GONE, "add it"), ([], "at least 1")),
    *of("Stage", "stages.1.train.tokens_per_step", (65, "Set it to 64 or 128", "per_step is 65")),
    *of("Stage", "stages.1.steps", (3, "'stages[1].train.steps'")),
]  # fmt: skip

MISTAKES = [*RECIPE, *MODELS, *DATA, *OBJECTIVES, *TRAINING]

TEXTS = [
    ("train:\n\tsteps: 3\n", "line 2", "spaces"),
    ("seed: 1\nseed: 2\n", "'seed'", "keep one"),
    ("data: [1, 2\n", "line 2", "expected ',' or ']'"),
    ("- output: x\n", "holds no recipe", "teacher, student, data"),
    ("", "holds no recipe", "teacher, student, data"),
    ("output: x\n---\noutput: y\n", "line 2", "single document"),
    ("teacher: *base\n", "'base'", "line 1"),
    ("seed: !!python/name:os.system\n", "line 1", "python/name"),
    ("seed: !!bool 3\n", "recipe.yaml", "Leave tags"),
    ("1: x\n", "key 1", "Known: output"),
    ("output: caf\udce9\n", "recipe.yaml", "UTF-8"),
]
"""What is no YAML, or none that could be a recipe; what is named; and the remedy."""

OVERRIDES = [
    ("steps", "'steps'", "key.subkey=value"),
    ("train.=1", "'train.=1'", "key.subkey=value"),
    ("train.step=3", "train.step", "did you mean 'steps'?"),
    ("train.steps=0", "train.steps", "greater than or equal to 1"),
    ("train.steps.x=1", "'x'", "--set 'train.steps.x=1'"),
    ("objectives.9.weight=1", "'9'", "a number below 2"),
    ("data.sources.first.path=x", "'first'", "a number below 5"),
    ("seed={", "'seed={'", "valid YAML"),
    ("student.kind=layer", "student.kind", "did you mean 'layers'?"),
    ("teacher.dtype=int7", "teacher.dtype", "'bfloat16'"),
]
