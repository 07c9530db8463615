"""What the tables of the pages hold: the cells of each, from the files of results; written by `tables.py`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from decimal import Decimal

from figures import Result, Results, number, percent, ratio_text, size

Table = Callable[[Results], str]

# What is claimed -> the file of results, whose command measures it, if it was kept.
CLAIMS: dict[str, str] = {
    "training steps, against windows padded to 384 tokens": "training",
    "training steps, against transformers' Trainer": "training-trainer",
    "dropout from 16 random bits a number, against PyTorch's": "training-dropout",
    "training on one GPU, without data: what there is time for in `--minutes`, the most important first": "gpu-h200",
    "minutes of training until F1 60": "time-to-quality",
    "F1 by minutes of training, by recipe": "recipes",
    "the same, with other seeds": "recipes-seeds",
    "the same, before": "recipes-before",
    "several models together, and LoRA at a higher rate": "recipes-more",
    "long contexts, with fewer windows that hold no answer": "recipes-long",
    "padding in the batches of an epoch": "padding",
    "a validation epoch, against its forward passes": "validation",
    "questions to windows on disk": "windowing",
    "logits to answers; all logits are noise": "decoding",
    "the same; each window has a clear answer": "decoding-peaked",
    "answers to EM and F1": "scoring",
    "`--help`, the first answer, and the first step on prepared data": "startup",
    "10 thousand to a million questions": "growth",
    "answering, against the pipeline of transformers 4.57": "pipeline",
    "one short question; `--profile` shows where the time goes": "latency",
    "documents: recall of the first stage": "documents-recall",
    "documents: EM and F1, with and without the prior": "documents-scores",
    "the same from 100 passages": "documents-scores-100",
    "the same with a weaker model": "documents-weak",
    "the same from 100 passages, with the weaker model": "documents-weak-100",
    "documents: the weight of the prior": "documents-prior",
    "PyTorch, ONNX and int8: speed by the number of threads": "onnx",
    "the same: EM and F1 of more questions": "onnx-scores",
}


def markdown(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A Markdown table."""
    head = list(header)
    lines = [head, *rows]
    shown = [" ".join(["|", *(f"{cell} |" if cell else "|" for cell in line)]) for line in lines]
    return "\n".join([shown[0], "|" + "---|" * len(head), *shown[1:]])


def with_memory(result: Result, variant: str, text: str) -> str:
    """A cell with the peak memory of a variant, if it is known."""
    known = result.has(variant, "peak_rss_mb")
    return f"{text}, {size(result.median(variant, 'peak_rss_mb'))}" if known else text


def rate(result: Result, variant: str, figure: str, unit: str, memory: bool = True) -> str:
    """A cell with a figure and its unit."""
    text = f"{number(result.median(variant, figure))} {unit}"
    return with_memory(result, variant, text) if memory else text


def figures(results: Results) -> str:
    """All that has a usual implementation."""
    float32 = "(float32, as above)"
    training, quality, asked = results["training"], results["time-to-quality"], results["pipeline"]
    padding, validation, windowing = results["padding"], results["validation"], results["windowing"]
    scoring, startup = results["scoring"], results["startup"]
    windows = f"{number(windowing.median('ours-training', 'windows'), 9)} windows"
    questions = number(windowing.median("ours-training", "questions"), 9)

    def trained(variant: str, what: str, usual: str) -> list[str]:
        ratio = training.ratio(variant, "padded-384", "features_per_second", True)
        return [what, usual, rate(training, variant, "features_per_second", "windows/s"), ratio_text(ratio)]

    def until(variant: str) -> str:
        f1, features = (quality.median(variant, figure) for figure in ("f1", "features"))
        text = f"{number(quality.median(variant, 'minutes'))} min, F1 {number(f1)} after {number(features)} windows"
        return with_memory(quality, variant, text)

    def answered(variant: str, what: str, usual: str) -> list[str]:
        ratio = asked.ratio(variant, "4.57", "questions_per_second", True)
        return [what, usual, rate(asked, variant, "questions_per_second", "questions/s"), ratio_text(ratio)]

    def real(variant: str) -> str:
        return percent(1 - padding.median(variant, "padding_share"))

    def cut(variant: str) -> str:
        seconds = number(windowing.median(variant, "seconds"))
        return f"{seconds} s, {number(windowing.median(variant, 'bytes_per_window'), decimals=0)} bytes per window"

    def cut_ratio(variant: str, baseline: str) -> str:
        return ratio_text(windowing.ratio(variant, baseline, "seconds"))

    usual_training = rate(training, "padded-384", "features_per_second", "windows/s")
    usual_asked = rate(asked, "4.57", "questions_per_second", "questions/s")
    ours, theirs = "ours-training", "ours-validation"
    rows = [
        trained("ours-float32", "training, MiniLM-L6 shape, batch 8, float32", usual_training),
        trained("ours-bf16", "the same, bf16-mixed", float32),
        [
            "minutes of training until F1 60 (MiniLM, 7,436 questions, batch 8, learning rate 1e-4, both float32)",
            until("padded-384"),
            until("ours"),
            ratio_text(quality.ratio("ours", "padded-384", "minutes")),
        ],
        [
            "share of real tokens in those computed, SQuAD, batch 8 / 32",
            f"{real('padded-384')}, padded to 384",
            f"{real('ours-8')} / {real('ours-32')}",
            "",
        ],
        answered(
            "ours",
            "answering, MiniLM trained on SQuAD, 240 questions, batch 32, float32 (4.57.6's pipeline)",
            usual_asked,
        ),
        answered("ours-bf16", "the same, bfloat16", float32),
        answered("ours-v4-scores", 'the same, `compat="v4"`', usual_asked),
        [
            "forward passes of validation, batch 32",
            with_memory(
                validation,
                "padded-384-forward",
                f"{number(validation.median('padded-384-forward', 'seconds'))} s, padded to 384",
            ),
            rate(validation, "forward", "seconds", "s"),
            ratio_text(validation.ratio("forward", "padded-384-forward", "seconds")),
        ],
        [
            "a whole validation epoch, against its forward passes",
            "",
            f"{rate(validation, 'epoch', 'seconds', 's', memory=False)} against "
            f"{rate(validation, 'forward', 'seconds', 's', memory=False)}",
            ratio_text(validation.ratio("epoch", "forward", "seconds")),
        ],
        [
            f"{questions} questions to {windows}, with labels, on disk",
            cut("course-training"),
            cut(ours),
            cut_ratio(ours, "course-training"),
        ],
        [
            "the same for validation, with offsets",
            cut("course-validation"),
            cut(theirs),
            cut_ratio(theirs, "course-validation"),
        ],
        [
            "both, against bare `Tokenizer.encode_batch` of the same pairs",
            rate(windowing, "encode_batch", "seconds", "s", memory=False),
            " and ".join(rate(windowing, name, "seconds", "s", memory=False) for name in (ours, theirs)),
            " and ".join(cut_ratio(name, "encode_batch") for name in (ours, theirs)),
        ],
        decoded(results["decoding"], f"decoding {windows}, noise, one thread"),
        decoded(results["decoding-peaked"], "the same, clear answers"),
        [
            f"scoring {number(scoring.median('ours', 'questions'), 9)} answers (torchmetrics' `SQuAD`)",
            rate(scoring, "torchmetrics", "seconds", "s", memory=False),
            rate(scoring, "ours", "seconds", "s", memory=False),
            ratio_text(scoring.ratio("ours", "torchmetrics", "seconds")),
        ],
        ["`train.py --help`", "", rate(startup, "short-help", "seconds", "s", memory=False), ""],
        ["`train.py --help_all`", "", rate(startup, "help", "seconds", "s", memory=False), ""],
        [
            "first answer, from the start of the process, against importing torch and transformers' classes",
            rate(startup, "imports", "seconds", "s", memory=False),
            rate(startup, "first-answer", "seconds", "s", memory=False),
            ratio_text(startup.ratio("first-answer", "imports", "seconds")),
        ],
        [
            "first training step on prepared data, from the start of the process",
            "",
            rate(startup, "first-step", "seconds", "s", memory=False),
            "",
        ],
    ]
    return markdown(["what", "usual implementation", "ours", "ratio"], rows)


def decoded(result: Result, what: str) -> list[str]:
    """The row of a decoding: times, and how many best spans were missed."""

    def cell(variant: str) -> str:
        missed = int(result.median(variant, "missed"))
        said = f"{missed:,} questions' best span missed" if missed else "none missed"
        return f"{number(result.median(variant, 'seconds'))} s, {said}"

    usual = "top-20-by-top-20"
    return [what, cell(usual), cell("ours"), ratio_text(result.ratio("ours", usual, "seconds"))]


def speed(results: Results) -> str:
    """The figures that a user of training looks for."""
    trainer, training, quality = results["training-trainer"], results["training"], results["time-to-quality"]
    windowing, decoding, asked = results["windowing"], results["decoding"], results["pipeline"]
    questions = number(windowing.median("ours-training", "questions"), 9)

    def row(what: str, result: Result, usual: str, ours: str, figure: str, unit: str) -> list[str]:
        cells = [f"{number(result.median(name, figure))} {unit}".strip() for name in (usual, ours)]
        return [what, *cells, f"{ratio_text(result.ratio(ours, usual, figure, figure.endswith('per_second')))} times"]

    trained = "training steps, {} (transformers' Trainer, grouped by length, padded to the longest, bf16)"
    padded = "training steps, {} (padded to 384, float32)"
    plain = "no-attention-dropout-bf16"
    tokens, windows = ("tokens_per_second", "tokens/s"), ("features_per_second", "windows/s")
    until = "minutes of training until F1 60 on the articles below, both in float32"
    cut = f"windows with labels of {questions} questions, on disk (`map` as in the Hugging Face course)"
    rows = [
        row(trained.format("bf16, batch 16"), trainer, "trainer-bf16", "ours-bf16", *tokens),
        row("the same, both with `--model.attention_dropout 0`", trainer, f"trainer-{plain}", f"ours-{plain}", *tokens),
        row(padded.format("float32"), training, "padded-384", "ours-float32", *windows),
        row(padded.format("bf16-mixed"), training, "padded-384", "ours-bf16", *windows),
        row(until, quality, "padded-384", "ours", "minutes", ""),
        row(cut, windowing, "course-training", "ours-training", "seconds", "s"),
    ]
    what, usual, ours, ratio = decoded(
        decoding, f"decoding {number(decoding.median('ours', 'windows'), 9)} windows (top 20 by top 20)"
    )
    rows.append([what, usual, ours, f"{ratio} times"])
    rows += [
        row(what, asked, "4.57", variant, "questions_per_second", "questions/s")
        for what, variant in (
            ("answering, float32, batch 32 (the pipeline of transformers 4.57)", "ours"),
            ("answering, bfloat16 (the same pipeline, float32)", "ours-bf16"),
        )
    ]
    return markdown(["", "the usual way", "here", ""], rows)


def steps(result: Result, pairs: dict[str, tuple[str, str]], figure: str, unit: str) -> list[list[str]]:
    """Rows of training steps, the usual way and ours: what -> both variants."""
    return [
        [
            what,
            *(rate(result, name, figure, unit) for name in (usual, ours)),
            ratio_text(result.ratio(ours, usual, figure, True)),
        ]
        for what, (usual, ours) in pairs.items()
    ]


def trainer(results: Results) -> str:
    """Training against transformers' Trainer."""
    suffixes = {"with the model's attention dropout": "bf16", "without": "no-attention-dropout-bf16"}
    pairs = {what: (f"trainer-{suffix}", f"ours-{suffix}") for what, suffix in suffixes.items()}
    rows = steps(results["training-trainer"], pairs, "tokens_per_second", "tokens/s")
    return markdown(["MiniLM-L6 shape, batch 16", "Trainer", "ours", "ratio"], rows)


def dropout(results: Results) -> str:
    """Training steps on a CPU with PyTorch's dropout and with our own."""
    suffixes = {"float32": "float32", "bf16-mixed": "bf16"}
    pairs = {what: (f"ours-pytorch-dropout-{suffix}", f"ours-{suffix}") for what, suffix in suffixes.items()}
    rows = steps(results["training-dropout"], pairs, "features_per_second", "windows/s")
    return markdown(["MiniLM-L6 shape, batch 8", "PyTorch's dropout", "fast dropout", "ratio"], rows)


def recall(results: Results) -> str:
    """What the first stage finds among documents."""
    result = results["documents-recall"]
    header = [
        "passages read",
        "the question's own paragraph is among them",
        "a paragraph with the text of a gold answer is",
        "first stage",
    ]
    rows = [
        [
            variant.removeprefix("candidates "),
            *(percent(result.median(variant, figure)) for figure in ("own_paragraph_share", "answer_text_share")),
            rate(result, variant, "questions_per_second", "questions/s", memory=False),
        ]
        for variant in result.variants
    ]
    return markdown(header, rows)


def em_f1(result: Result, variant: str, digits: int = 3) -> str:
    """A cell with EM and F1."""
    return " / ".join(number(result.median(variant, figure), digits) for figure in ("em", "f1"))


def answers_of_documents(results: Results, name: str) -> str:
    """EM and F1 by passages read and weight of the prior; 100 passages were asked fewer questions."""
    priors = ("0", "1")
    given = "paragraph given"
    rows = [["the question's own paragraph, given (`Reader.answer`)", em_f1(results[name], given), ""]]
    for result in (results[name], results[f"{name}-100"]):
        fewer = result is not results[name]
        counts = dict.fromkeys(variant.split(",")[0] for variant in result.variants if variant != given)
        counts = counts or {"candidates 20": None}  # of an empty file, which then fails by this name
        for candidates in counts:
            what = candidates.removeprefix("candidates ")
            if fewer:
                asked = number(result.median(given, "questions"))
                what += f" (of {asked} questions; {em_f1(result, given)} with their own paragraph)"
            without, default = (f"{candidates}, prior {prior}" for prior in priors)
            rows.append([what, em_f1(result, without) if result.has(without, "em") else "", em_f1(result, default)])
    return markdown(["passages read", *(f"`--prior {prior}`" for prior in priors)], rows)


def prior(results: Results) -> str:
    """F1 by the weight of the prior, with which it was chosen."""
    result = results["documents-prior"]
    models = {
        "240 steps": "the model",
        "46 more steps": "the model trained 46 steps further, every fifth row a passage that does not answer",
    }
    weights = list(dict.fromkeys(variant.split("prior ")[1] for variant in result.variants))
    asked = {model: number(result.median(f"{model}, prior {weights[0]}", "questions")) for model in models}
    header = ["weight", *(f"{text} ({asked[model]} questions)" for model, text in models.items())]
    rows = [
        [weight, *(number(result.median(f"{model}, prior {weight}", "f1")) for model in models)] for weight in weights
    ]
    return markdown(header, rows)


def latency(results: Results) -> str:
    """One short question, beside the forward pass of its window."""
    result = results["latency"]
    lengths = result.variants

    def spread(variant: str, figure: str) -> str:
        least, most = (number(value) for value in result.spread(variant, figure))
        return f"{least} ms" if least == most else f"{least} to {most} ms"

    def beside(variant: str) -> str:
        ratios = ", ".join(number(value, 4, 3) for value in result.each(variant, "ratio"))
        return f"{spread(variant, 'beside_ms')}; in all {ratios} times the forward pass"

    rows = [
        ["forward pass alone, CPU time", *(spread(length, "forward_ms") for length in lengths)],
        ["beside it", *(beside(length) for length in lengths)],
    ]
    return markdown(["", *lengths], rows)


def steps_of_a_gpu(results: Results) -> str:
    """Training steps of one GPU, by model and batch."""
    result = results["gpu-h200"]
    own = "ours-graphs"
    header = [
        "model, batch",
        "ours",
        "Trainer",
        "course",
        "ours to Trainer, to course",
        "utilization of ours",
        "the GPU waits for the host",
        "memory",
    ]
    rows = []
    for variant in result.variants:
        if not variant.startswith(f"{own} ") or not result.has(variant, "tokens_per_second"):
            continue
        case = variant.removeprefix(f"{own} ")
        peers = [name for name in ("trainer", "course") if result.has(f"{name} {case}", "tokens_per_second")]
        tokens = {name: number(result.median(f"{name} {case}", "tokens_per_second")) for name in (own, *peers)}
        ratios = [ratio_text(result.ratio(variant, f"{name} {case}", "tokens_per_second", True)) for name in peers]
        waits = percent(result.median(variant, "host_wait_share"), 0)
        if "trainer" in peers:
            waits += f" (Trainer {percent(result.median(f'trainer {case}', 'host_wait_share'), 0)})"
        shape, batch = case.split()
        rows.append(
            [
                f"{shape.replace('bert', 'BERT')}, {batch}",
                f"{tokens[own]} tokens/s, {number(result.median(variant, 'windows_per_second'))} windows/s",
                tokens.get("trainer", ""),
                tokens.get("course", ""),
                ", ".join(ratios),
                percent(result.median(variant, "utilization"), 0),
                waits,
                f"{number(result.median(variant, 'memory_gib'), decimals=1)} GiB",
            ]
        )
    return markdown(header, rows)


def epochs_of_a_gpu(results: Results) -> str:
    """A whole run of one GPU, and what the card reaches."""
    result, whole = results["gpu-h200"], "epochs bert-base 128-graphs"

    def seconds(figure: str) -> str:
        return f"{number(result.median(whole, figure), decimals=0)} s"

    training, validation = (number(result.median(whole, f"{name}_windows"), 9) for name in ("training", "validation"))
    reached = result.median("ceilings", "flops_per_second").scaleb(-12)
    rows = [
        [f"three epochs of BERT-base over {training} windows, in batches of 128", seconds("seconds")],
        ["of that, training", seconds("training_seconds")],
        [f"validations, of {validation} windows each", seconds("validating_seconds")],
        ["both checkpoints after each epoch", seconds("saving_seconds")],
        ["a large bf16 product", f"{number(reached, decimals=0)} TFLOP/s"],
    ]
    return markdown(["what", "one GPU"], rows)


GROWTH = {
    "preparing": "preparing: read, check, cut into windows, write",
    "decoding": "decoding all logits in one call",
    "training": "drawing the order of an epoch, loading 200 batches",
    "epoch": "validation epoch, with random logits in place of a model",
}
TIMES = ("x1", "x10", "x95")  # how often the questions are repeated


def growth(results: Results) -> str:
    """Time and own memory by the number of questions."""
    result = results["growth"]
    rows = [[text, *(grown(result, f"{part}-{one}") for one in TIMES)] for part, text in GROWTH.items()]
    return markdown(questions_of(result, "what"), [*rows, logits_of(result)])


def growth_with_peaks(results: Results) -> str:
    """The same with the peak of the whole process, without decoding."""
    result = results["growth"]
    rows = []
    for part in ("preparing", "training", "epoch"):
        names = [f"{part}-{one}" for one in TIMES]
        rows.append([GROWTH[part], *(f"{number(result.median(name, 'seconds'))} s" for name in names)])
        memory = [[size(result.median(name, figure)) for figure in ("memory_mb", "peak_rss_mb")] for name in names]
        rows.append(["own memory, peak RSS", *map(", ".join, memory)])
    return markdown(questions_of(result, ""), [*rows, logits_of(result)])


def questions_of(result: Result, what: str) -> list[str]:
    """The header of both tables of growth."""
    first, *others = (number(result.median(f"epoch-{one}", "questions"), 9) for one in TIMES)
    return [what, f"{first} questions", *others]


def grown(result: Result, variant: str) -> str:
    """A cell with seconds and own memory."""
    return f"{number(result.median(variant, 'seconds'))} s, {size(result.median(variant, 'memory_mb'))}"


def logits_of(result: Result) -> list[str]:
    """The row of the logits' size."""
    sizes = [size(result.median(f"epoch-{one}", "logits_mb")) for one in TIMES]
    return ["size of the logits of all context tokens, which that epoch does not keep", *sizes]


def onnx(results: Results) -> str:
    """ONNX and int8 against PyTorch, for each number of threads; EM and F1 do not depend on it."""
    result, scores = results["onnx"], results["onnx-scores"]
    names = {"pytorch": "PyTorch, float32", "onnx": "ONNX, float32", "onnx-int8": "ONNX, int8"}
    scored = {variant.rsplit("-", 2)[0]: variant for variant in scores.variants}
    rows = []
    for variant in result.variants:
        model, threads, word = variant.rsplit("-", 2)
        base = f"pytorch-{threads}-{word}"
        ratio = "" if variant == base else ratio_text(result.ratio(variant, base, "questions_per_second", True))
        rows.append(
            [
                f"{names[model]}, {threads} {word}",
                number(result.median(variant, "questions_per_second")),
                f"{ratio} times" if ratio else "",
                em_f1(scores, scored[model], 4) if model in scored else "",
                size(result.median(variant, "size_mb")),
                size(result.median(variant, "peak_rss_mb")),
            ]
        )
    asked = number(scores.median(scores.variants[0], "questions"), 9)
    header = ["", "questions/s", "against PyTorch", f"EM / F1 on {asked} questions", "size", "peak memory"]
    return markdown(header, rows)


RECIPES = {  # name in `bench_recipes.py` -> what a person calls it
    "plain": "`fast_cpu`, with the model's dropout of attention",
    "fast-cpu": "`fast_cpu`",
    "lora": "`fast_cpu`, LoRA of rank 8 (`--model.lora_rank 8 --model.learning_rate 5e-4`)",
    "lora-2e-3": "`fast_cpu`, LoRA of rank 8 at four times the rate (`--model.learning_rate 2e-3`)",
    "ema": "`fast_cpu --ema_decay 0.99`",
    "average-3": "`fast_cpu --average_best 3 --trainer.val_check_interval 0.25`",
    "ensemble": "three models of `fast_cpu` together (`--model A,B,C`; seeds 42, 43 and 44)",
    "freeze-3": "`fast_cpu`, three layers frozen (`--model.freeze_layers 3`)",
    "small-data": "`small_data`",
    "taught": "`small_data`, 2 epochs, with the MPNet above as teacher",
    "large": "`small_data_base`, 1,400 steps",
    "v2-small-data": "`small_data`, 4 epochs",
    "v2-large": "`small_data_base`, 1,400 steps",
}


def scores_of_parts(variant: str, *results: Result) -> list[str]:
    """EM and F1 on the validation articles, and on the others: of one seed, or the means and the range of F1."""
    shown = []
    for part in ("", "third_"):
        em, f1 = (
            [value for result in results if variant in result.variants for value in result.each(variant, part + name)]
            for name in ("em", "f1")
        )
        both = " / ".join(number(Decimal(sum(each)) / len(each), 4) for each in (em, f1))
        low, high = (number(end(f1), 4) for end in (min, max))
        shown.append(both if len(f1) == 1 else f"{both} ({len(f1)} seeds, F1 {low} to {high})")
    return shown


def interval(result: Result, variant: str, figure: str) -> str:
    """A share in percent, and the interval around it."""
    value, low, high = (number(one, decimals=1) for one in result.value(variant, figure))
    return f"{value}% ({low} to {high})"


def recipes(results: Results) -> str:
    """What each recipe brings, in which time, on the articles it was chosen by and on others."""
    result, seeds = results["recipes"], results["recipes-seeds"]

    rows = []
    for variant in result.variants:
        version, model = result.value(variant, "version"), result.value(variant, "model")
        rows.append(
            [
                f"{RECIPES[variant]}",
                f"{model}, v{version}",
                number(result.median(variant, "minutes"), decimals=0),
                *scores_of_parts(variant, result, seeds),
                interval(result, variant, "third_ece"),
                interval(result, variant, "third_at_90"),
            ]
        )
    before = results["recipes-before"]
    for variant in before.variants:
        version, model, recipe = variant.split(maxsplit=2)
        minutes = number(before.median(variant, "minutes"), decimals=0)
        named = [f"before, on more articles: {recipe}", f"{model.removesuffix(':')}, v{version}"]
        rows.append([*named, minutes, em_f1(before, variant, 4), "", "", ""])
    header = [
        "recipe",
        "model, SQuAD",
        "minutes",
        "EM / F1, validation articles",
        "EM / F1, other articles",
        "calibration error there",
        "answered at 90% precision there",
    ]
    return markdown(header, rows)


def more_recipes(results: Results) -> str:
    """Recipes beside `fast_cpu`, of which the scores are known and not the minutes."""
    result = results["recipes-more"]
    rows = [
        [
            RECIPES[variant],
            *scores_of_parts(variant, result),
            *(interval(result, variant, f"third_{figure}") for figure in ("ece", "auroc", "at_90")),
        ]
        for variant in result.variants
    ]
    header = [
        "MiniLM, v1.1",
        "EM / F1, validation articles",
        "EM / F1, other articles",
        "calibration error there",
        "AUROC there",
        "answered at 90% precision there",
    ]
    return markdown(header, rows)


def long_contexts(results: Results) -> str:
    """What a run on long contexts gains with fewer of the windows that hold no answer, in as many steps."""
    result = results["recipes-long"]
    rows = []
    for variant in result.variants:
        share = f"`{variant.removeprefix('long-')}`"
        rows.append([share, *scores_of_parts(variant, result), interval(result, variant, "third_ece")])
    header = [
        "`--data.keep_no_answer`",
        "EM / F1, validation articles",
        "EM / F1, other articles",
        "calibration error there",
    ]
    return markdown(header, rows)


def commands(results: Results) -> str:
    """Each claim with its command; it is no table of figures, so nothing stands below it."""
    others = Results(results.folder)
    rows = []
    for claim, name in CLAIMS.items():
        command = others[name].values["command"]
        output = f" --output benchmarks/results/{name}.json"
        rows.append([claim, f"`{command}{output}`" if command else f"not kept (`{name}.json`)"])
    return markdown(["claim", "command"], rows)


TABLES: dict[str, Table] = {
    "figures": figures,
    "speed": speed,
    "trainer": trainer,
    "dropout": dropout,
    "recipes": recipes,
    "more-recipes": more_recipes,
    "long-contexts": long_contexts,
    "recall": recall,
    "documents-scores": lambda results: answers_of_documents(results, "documents-scores"),
    "documents-weak": lambda results: answers_of_documents(results, "documents-weak"),
    "documents-prior": prior,
    "latency": latency,
    "gpu-steps": steps_of_a_gpu,
    "gpu-epochs": epochs_of_a_gpu,
    "growth": growth,
    "growth-peaks": growth_with_peaks,
    "onnx": onnx,
    "commands": commands,
}
