"""Other people's programs ask the pipeline: a web server with eight clients at once, evaluate's evaluator, and more."""

from __future__ import annotations

import re
import threading
from concurrent.futures import ThreadPoolExecutor

import datasets
import evaluate
import pytest

from qa_lightning import pipeline
from qa_lightning.models.load_errors import quiet_transformers
from tests.helpers.paths import ROOT
from tests.helpers.soak_threads import alike

ONE = {"question": "Where does Anna live?", "context": "Anna lives in Oslo, and Ben works in Rome at the bakery."}
PAGE = (ROOT / "docs" / "answering.md").read_text(encoding="utf-8")


def example(first_line: str) -> str:
    """The block of Python in the page that begins with a line."""
    (found,) = re.findall(rf"```python\n({re.escape(first_line)}\n.*?)```", PAGE, flags=re.DOTALL)
    return found


def test_the_pages_server_answers_eight_clients_at_once(model_folder) -> None:
    uvicorn, httpx = pytest.importorskip("uvicorn"), pytest.importorskip("httpx")
    pytest.importorskip("fastapi")
    names: dict[str, object] = {}
    code = example("# server.py")
    assert '"deepset/roberta-base-squad2"' in code
    exec(code.replace('"deepset/roberta-base-squad2"', repr(model_folder)), names)
    server = uvicorn.Server(uvicorn.Config(names["app"], host="127.0.0.1", port=0, log_level="error"))
    runner = threading.Thread(target=server.run)
    runner.start()
    try:
        while not server.started:
            assert runner.is_alive()
        port = server.servers[0].sockets[0].getsockname()[1]
        asked = [{"question": ONE["question"], "context": ONE["context"] * (1 + number % 4)} for number in range(8)]
        sent = [{**texts, "top_k": 1 + number % 3} for number, texts in enumerate(asked)]
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client, ThreadPoolExecutor(8) as pool:
            found = list(pool.map(lambda one: client.post("/ask", json=one), sent * 2))
            bad = client.post("/ask", json={"question": "", "context": "Anna"})
    finally:
        server.should_exit = True
        runner.join()
    ask = pipeline(model_folder)
    assert [answer.status_code for answer in found] == [200] * 16
    assert alike([answer.json() for answer in found], [ask(**one) for one in sent * 2])
    assert (bad.status_code, bad.json()["detail"]) == (422, "`question` cannot be empty")


class Texts(evaluate.Metric):
    """Says which texts were predicted."""

    def _info(self) -> evaluate.MetricInfo:
        text = datasets.Value("string")
        gold = {"text": [text], "answer_start": [datasets.Value("int32")]}
        return evaluate.MetricInfo(
            description="",
            citation="",
            features=datasets.Features(
                {"predictions": {"id": text, "prediction_text": text}, "references": {"id": text, "answers": gold}}
            ),
        )

    def _compute(self, predictions, references):
        return {"texts": [one["prediction_text"] for one in predictions]}


@pytest.mark.filterwarnings("ignore")
def test_evaluates_evaluator_asks_the_restored_pipeline(model_folder, restored) -> None:
    rows = [{"id": str(n), **ONE, "answers": {"text": ["Oslo"], "answer_start": [14]}} for n in range(3)]
    ask = pipeline(model_folder)
    for named in ({"model_or_pipeline": model_folder}, {"model_or_pipeline": ask.model, "tokenizer": ask.tokenizer}):
        with quiet_transformers():
            found = evaluate.evaluator("question-answering").compute(
                data=datasets.Dataset.from_list(rows), metric=Texts(), device=-1, **named
            )
        assert found["texts"] == [ask(**ONE)["answer"]] * 3


@pytest.mark.filterwarnings("ignore")
def test_txtais_rag_asks_the_pipeline(model_folder) -> None:
    txtai = pytest.importorskip("txtai")
    from txtai.pipeline import RAG, Questions

    ask = pipeline(model_folder)
    names: dict[str, object] = {}
    exec(example("from txtai.pipeline import Questions"), names)
    asks = names["Asked"](ask)
    assert isinstance(asks, Questions)
    assert asks([ONE["question"], "", "Who?"], [ONE["context"], "Anna", ""]) == [ask(**ONE)["answer"], None, None]
    found = txtai.Embeddings(keyword=True, content=True)
    found.index([ONE["context"], "Ben sings."])
    asked = [{"name": "home", "query": "Anna lives", "question": ONE["question"]}]
    assert RAG(found, asks)(asked) == [{"name": "home", "answer": ask(**ONE)["answer"]}]
    own = Questions((ask.model, ask.tokenizer), gpu=False)([ONE["question"]], [ONE["context"]])
    assert len(own) == 1  # computed by txtai itself


def test_shap_explains_the_score_of_an_answer(model_folder) -> None:
    pytest.importorskip("shap")
    names: dict[str, object] = {"ask": pipeline(model_folder), "question": ONE["question"]}
    exec(
        example("import shap").replace("explainer([context])", 'explainer(["Anna lives in Oslo."], max_evals=12)'),
        names,
    )
    assert names["explained"].shape[0] == 1
    assert abs(names["explained"].values).sum() > 0
