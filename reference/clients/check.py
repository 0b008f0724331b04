"""Uses a running server through the public clients, unchanged, and compares what they give with each other.

    check.py http://127.0.0.1:8080

A sentence encoder is needed; a classifier, a tagger, a masked LM and a model for natural language inference are tried
if they are served.
"""

import json
import math
import sys
import urllib.request

from huggingface_hub import InferenceClient
from langchain_openai import OpenAIEmbeddings
from llama_index.embeddings.openai import OpenAIEmbedding
from llama_index.embeddings.text_embeddings_inference import TextEmbeddingsInference
from openai import BadRequestError, NotFoundError, OpenAI

TEXTS = ["a man is eating", "someone has a meal", "the stock market fell"]


def close(a: list[float], b: list[float]) -> bool:
    return len(a) == len(b) and all(math.isclose(x, y, abs_tol=1e-6) for x, y in zip(a, b, strict=True))


def check(name: str, passed: bool) -> None:
    print(f"{'ok' if passed else 'FAILED'}  {name}")
    if not passed:
        sys.exit(1)


def infers(model: dict) -> bool:
    """Whether a model says what follows from what."""
    labels = model["model_type"].get("classifier", {}).get("label2id", {})
    return any(label.lower().startswith("entail") for label in labels)


def main(url: str) -> None:
    models = json.load(urllib.request.urlopen(f"{url}/info"))["models"]
    # Models for natural language inference take pairs, which this client cannot send as such.
    kinds = {next(iter(model["model_type"])): model["served_model_name"] for model in models if not infers(model)}
    embedder = kinds["embedding"]

    client = OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
    answer = client.embeddings.create(model=embedder, input=TEXTS)
    vectors = [row.embedding for row in answer.data]
    check("openai: embeddings (base64, its default)", math.isclose(sum(x * x for x in vectors[0]), 1, rel_tol=1e-5))
    plain = client.embeddings.create(model=embedder, input=TEXTS[0], encoding_format="float")
    check("openai: embeddings (float)", close(plain.data[0].embedding, vectors[0]) and plain.usage.prompt_tokens > 2)
    short = client.embeddings.create(model=embedder, input=TEXTS[0], dimensions=64)
    check("openai: dimensions", len(short.data[0].embedding) == 64)
    check("openai: models", embedder in [model.id for model in client.models.list()])
    check("openai: one model", client.models.retrieve(embedder).id == embedder)
    try:
        client.embeddings.create(model="none", input="a")
        check("openai: an unknown model", False)
    except NotFoundError as error:
        check("openai: an unknown model", error.code == "model_not_found")
    try:
        client.embeddings.create(model=embedder, input="")
        check("openai: an empty text", False)
    except BadRequestError as error:
        check("openai: an empty text", error.param == "input")

    hub = InferenceClient(f"{url}/models/{embedder}")
    check("huggingface_hub: feature_extraction", close(hub.feature_extraction(TEXTS[0])[0].tolist(), vectors[0]))
    both = hub.feature_extraction(TEXTS, normalize=True, truncate=True)
    check("huggingface_hub: feature_extraction of a list", close(both[2].tolist(), vectors[2]))
    cosines = hub.sentence_similarity(TEXTS[0], TEXTS[1:])
    check("huggingface_hub: sentence_similarity", cosines[0] > cosines[1])
    if name := kinds.get("classifier"):
        labels = InferenceClient(f"{url}/models/{name}").text_classification("a warm, funny film", top_k=2)
        check("huggingface_hub: text_classification", labels[0].score >= labels[1].score)
    if name := kinds.get("token_classifier"):
        spans = InferenceClient(f"{url}/models/{name}").token_classification(
            "Wolfgang lives in Berlin", aggregation_strategy="simple"
        )
        check("huggingface_hub: token_classification", all(span.start < span.end for span in spans))
    if name := kinds.get("masked_lm"):
        filled = InferenceClient(f"{url}/models/{name}").fill_mask("the capital of France is [MASK].", top_k=3)
        check("huggingface_hub: fill_mask", len(filled) == 3 and bool(filled[0].token_str))
    for model in models:
        if infers(model):
            client = InferenceClient(f"{url}/models/{model['served_model_name']}")
            scored = client.zero_shot_classification("the team won the final", ["sport", "cooking"])
            check(
                "huggingface_hub: zero_shot_classification", math.isclose(sum(x.score for x in scored), 1, rel_tol=1e-4)
            )

    chain = OpenAIEmbeddings(model=embedder, base_url=f"{url}/v1", api_key="none", check_embedding_ctx_length=False)
    check("langchain: OpenAIEmbeddings", close(chain.embed_query(TEXTS[0]), vectors[0]))
    check("langchain: OpenAIEmbeddings of documents", close(chain.embed_documents(TEXTS)[1], vectors[1]))

    index = TextEmbeddingsInference(model_name=embedder, base_url=url)
    check("llama_index: TextEmbeddingsInference", close(index.get_text_embedding_batch(TEXTS)[1], vectors[1]))
    index = OpenAIEmbedding(model_name=embedder, api_base=f"{url}/v1", api_key="none")
    check("llama_index: OpenAIEmbedding", close(index.get_text_embedding(TEXTS[1]), vectors[1]))


if __name__ == "__main__":
    main(sys.argv[1])
