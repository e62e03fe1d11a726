"""The model that is logged for custom serving, as MLflow wants one: a class.

Where it is served, the container's entrypoint answers and this class is never loaded; anywhere else it answers by
transformers, so that a version can be asked before it is served.
"""

from typing import Any

from mlflow.pyfunc.model import ChatModel
from mlflow.types.llm import ChatCompletionResponse

_WEIGHTS = "weights"


class VllmModel(ChatModel):  # type: ignore[misc] # MLflow's class is Any at our border
    """Weights in a folder, asked in the manner of a chat."""

    def load_context(self, context: Any) -> None:
        """Keep the folder; the weights are read at the first question."""
        self._folder: str = context.artifacts[_WEIGHTS]
        self._pipe: Any = None

    def predict(self, context: Any, messages: Any, params: Any) -> ChatCompletionResponse:
        """One chat completion."""
        from transformers import pipeline

        self._pipe = self._pipe or pipeline("text-generation", model=self._folder)
        asked = [{"role": message.role, "content": message.content} for message in messages]
        # Where the weights say nothing about sampling the pipeline would draw at temperature 0.7.
        drawn = bool(self._pipe.model.generation_config.do_sample)
        said = self._pipe(asked, max_new_tokens=params.max_tokens or 256, do_sample=drawn, return_full_text=False)
        answer = {"role": "assistant", "content": said[0]["generated_text"]}
        return ChatCompletionResponse.from_dict({"choices": [{"index": 0, "message": answer}]})
