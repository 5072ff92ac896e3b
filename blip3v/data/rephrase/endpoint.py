"""One request to an OpenAI-compatible endpoint, repeated while there is hope."""

from __future__ import annotations

from types import TracebackType
from typing import Any, cast

from blip3v.data.rephrase.cache import Reply
from blip3v.data.rephrase.prompts import Messages
from blip3v.errors import UserError


class NoReplyError(Exception):
    """This request has no reply, after all repeats; others may have one."""


class UnreachableError(NoReplyError):
    """Nobody answered at all."""


class Endpoint:
    """Chat completions of `model` at `url`, for example http://localhost:8000/v1.

    Too many requests (429), errors of the server (5xx) and time-outs are repeated `retries` times, later and
    later, or when the server says. A reply that is no chat completion is asked for once more.

    The key goes into the header of requests and nowhere else; messages of errors are searched for it.

    Args:
        key: None for servers that want none.
        parameters: further fields of a request, such as temperature.
        timeout: seconds for a request.

    Raises:
        UserError: the openai package is absent.
    """

    def __init__(
        self,
        url: str,
        model: str,
        key: str | None,
        parameters: dict[str, Any],
        timeout: float = 120.0,
        retries: int = 8,
    ) -> None:
        try:
            import openai
        except ImportError as error:
            raise UserError("rephrasing needs the openai package; pip install 'blip3v[rephrase]'") from error
        self.url, self.model, self.parameters = url, model, parameters
        self._key, self._openai = key, openai
        self._client = openai.AsyncOpenAI(
            base_url=url, api_key=key or "none", timeout=timeout, max_retries=retries
        )

    async def __aenter__(self) -> Endpoint:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client.close()

    async def ask(self, messages: Messages) -> Reply:
        """
        Raises:
            NoReplyError: not for this conversation.
            UserError: not for any: a wrong key, model or address.
        """
        openai, conversation = self._openai, cast("Any", messages)
        for attempt in (1, 2):
            try:
                completion = await self._client.chat.completions.create(
                    model=self.model, messages=conversation, **self.parameters
                )
                return _reply(completion)
            except (openai.AuthenticationError, openai.PermissionDeniedError) as error:
                raise UserError(
                    f"{self.url} refuses the key ({self._said(error)}); set the right one in the environment"
                ) from None
            except openai.NotFoundError as error:
                raise UserError(
                    f"{self.url} has no such model or path ({self._said(error)}); addresses mostly end in /v1"
                ) from None
            except openai.APIResponseValidationError as error:
                problem = f"the reply is no chat completion ({self._said(error)})"
            except openai.APIConnectionError as error:
                raise UnreachableError(self._said(error)) from None
            except openai.APIError as error:
                raise NoReplyError(self._said(error)) from None
            except (AttributeError, IndexError, TypeError, ValueError) as error:
                problem = f"the reply is no chat completion ({self._said(error)})"
            if attempt == 2:
                raise NoReplyError(problem)
        raise AssertionError("two attempts return or raise")

    def _said(self, error: Exception) -> str:
        text = " ".join(str(error).split())[:300]
        return text.replace(self._key, "***") if self._key else text


def _reply(completion: Any) -> Reply:
    choice, usage = completion.choices[0], getattr(completion, "usage", None)
    text = choice.message.content
    if text is not None and not isinstance(text, str):
        raise TypeError(f"content is a {type(text).__name__}")
    return Reply(
        text or "",
        choice.finish_reason == "length",
        int(getattr(usage, "prompt_tokens", 0) or 0),
        int(getattr(usage, "completion_tokens", 0) or 0),
    )
