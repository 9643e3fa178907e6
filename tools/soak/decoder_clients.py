"""Clients of the decoder: every answer has the length that is asked for, and greedy or seeded ones are known."""

from __future__ import annotations

import asyncio
from typing import Any, ClassVar

import httpx
import orjson

from .changes import LONGEST_ANSWER, Writer
from .clients import MALFORMED, Body, Client, Poison
from .subject import Subject
from .tally import Tally

MODEL = "decoder"
_PROMPTS = 12
_BASE: Body = {"model": MODEL, "prompt": "x", "max_tokens": 4}
_CHAT: Body = {"model": MODEL, "messages": [{"role": "user", "content": "x"}], "max_tokens": 4}
_WRONG_FIELDS: tuple[Body, ...] = (
    *({"prompt": ""}, {"prompt": []}, {"prompt": [10**6]}, {"prompt": [-1]}, {"prompt": [1] * 2000}),
    *({"prompt": "power " * 20_000}, {"prompt": ["a", "b"]}, {"max_tokens": 0}, {"max_tokens": 10**6}),
    *({"max_tokens": "5"}, {"temperature": -1}, {"temperature": "hot"}, {"top_p": 0}, {"logprobs": 99}),
    *({"n": 2}, {"echo": True}, {"stop": [""]}, {"stop": ["a"] * 5}, {"seed": 2**70}, {"unheard_of": 1}),
    *({"stream_options": {"include_usage": True}}, {"prompt": None}, {"model": None}),
)
_WRONG_CHATS: tuple[Body, ...] = (
    *({"messages": []}, {"messages": [{"role": "judge", "content": "x"}]}, {"messages": [{"role": "user"}]}),
    *({"top_logprobs": 3}, {"thinking_token_budget": -1}, {"reasoning_effort": "much"}, {"tools": []}),
)


class DecoderClient(Client):
    """Chats and completes."""

    kinds: ClassVar = {
        **{"greedy": 4, "streamed": 4, "drawn": 3, "usual_length": 2, "thinking": 3, "stopped": 1, "long_prompt": 1},
        **{"leaves_stream": 1, "leaves_waiting": 1, "poisoned": 3, "dropped": 2},
    }
    poison: ClassVar[tuple[Poison, ...]] = (
        *(("/v1/completions", _BASE | wrong, 400) for wrong in _WRONG_FIELDS),
        *(("/v1/chat/completions", _CHAT | wrong, 400) for wrong in _WRONG_CHATS),
        *(("/v1/completions", body, 400) for body in MALFORMED),
        ("/v1/completions", _BASE | {"model": "another"}, 404),
        ("/v1/embeddings", {"model": MODEL, "input": "x"}, 400),
        ("/v1/nowhere", _BASE, 404),
    )

    def __init__(self, subject: Subject, tally: Tally, writer: Writer, seed: int, known: dict[str, str]) -> None:
        super().__init__(subject, tally, writer, seed)
        self._known = known

    async def greedy(self) -> None:
        """The most likely tokens."""
        await self._compared("greedy", "/v1/completions", completion(self.random.randrange(_PROMPTS), temperature=0))

    async def drawn(self) -> None:
        """Drawn with a seed: as certain as greedy ones."""
        number = self.random.randrange(_PROMPTS)
        await self._compared("drawn", "/v1/completions", completion(number, temperature=1.0, top_p=0.9, seed=number))

    async def streamed(self) -> None:
        """A chat as a stream, to its last event."""
        body = chat(self.random.randrange(_PROMPTS))
        found = await self.answer("streamed", lambda: self._open(body))
        if found is None:
            return
        text, usage, is_done = "", None, False
        async for event in _events(found):
            is_done = event is None
            for choice in (event or {}).get("choices", ()):
                text += choice["delta"].get("content") or ""
            usage = (event or {}).get("usage") or usage
        if not is_done or usage is None:
            self.tally.lose("streamed", f"the stream broke off after {text!r}")
            return
        self.pay("streamed", usage)
        self._check("streamed", _name(body), body, text, usage)

    async def usual_length(self) -> None:
        """No length asked for: the profile's."""
        body = {key: value for key, value in completion(1, temperature=0).items() if key != "max_tokens"}
        answer = await self.ask("usual_length", "/v1/completions", body)
        profile = self.writer.steady_since(self.sent_s)
        if answer and profile:
            self._expect("usual_length", answer["usage"]["completion_tokens"], profile.default_output_tokens)

    async def thinking(self) -> None:
        """A budget for thinking, which the profile may cut."""
        asked = self.random.choice((None, 1, 6, 20))
        body = chat(0) | {"max_tokens": 40} | ({} if asked is None else {"thinking_token_budget": asked})
        answer = await self.ask("thinking", "/v1/chat/completions", body)
        profile = self.writer.steady_since(self.sent_s)
        if not answer or not profile:
            return
        known = [it for it in (asked or profile.default_thinking_tokens, profile.max_thinking_tokens) if it is not None]
        # The mark that ends it counts as thinking; without any limit this model thinks to its end.
        granted = min(known) + 1 if known else 40
        self._expect("thinking", answer["usage"]["completion_tokens_details"]["reasoning_tokens"], granted)

    async def stopped(self) -> None:
        """Ends before a text that it must not contain."""
        answer = await self.ask("stopped", "/v1/completions", completion(2, temperature=0) | {"stop": ["e", "a", "o"]})
        if answer and set("eao") & set(answer["choices"][0]["text"]):
            self.tally.wrong("stopped", f"a stop sequence got out: {answer['choices'][0]['text']!r}")

    async def long_prompt(self) -> None:
        """A prompt of several steps, as token ids."""
        body = {"model": MODEL, "prompt": [self.random.randrange(10, 390) for _ in range(700)], "max_tokens": 4}
        answer = await self.ask("long_prompt", "/v1/completions", body)
        if answer:
            self._expect("long_prompt", answer["usage"]["prompt_tokens"], 700)

    async def leaves_stream(self) -> None:
        """Reads a few events and goes."""
        found = await self._open(chat(3))
        if found.status_code == 200:
            lines = found.aiter_lines()
            for _ in range(self.random.randrange(8)):
                await anext(lines, "")
        await found.aclose()
        self.tally.left["in the middle of a stream"] += 1

    async def leaves_waiting(self) -> None:
        """Does not wait for the answer."""
        post = asyncio.create_task(self.http.post("/v1/completions", json=completion(5, temperature=0)))
        await asyncio.sleep(self.random.uniform(0, 0.1))
        post.cancel()
        await asyncio.gather(post, return_exceptions=True)
        self.tally.left["before the answer"] += 1

    async def _open(self, body: Body) -> httpx.Response:
        more = {"stream": True, "stream_options": {"include_usage": True}}
        request = self.http.build_request("POST", "/v1/chat/completions", json=body | more)
        found = await self.http.send(request, stream=True)
        if found.status_code != 200:
            await found.aread()
        return found

    async def _compared(self, kind: str, path: str, body: Body) -> None:
        answer = await self.ask(kind, path, body)
        if answer:
            self._check(kind, _name(body), body, answer["choices"][0]["text"], answer["usage"])

    def _check(self, kind: str, name: str, body: Body, text: str, usage: Body) -> None:
        self._expect(kind, usage["completion_tokens"], body["max_tokens"])
        profile = self.writer.steady_since(self.sent_s)
        # int8 answers otherwise, and a thinking budget changes chats.
        if profile is None or profile.precision != "fp32":
            return
        if "messages" in body and (profile.default_thinking_tokens, profile.max_thinking_tokens) != (None, None):
            return
        self._expect(kind, text, self._known[name])

    def _expect(self, kind: str, found: object, expected: object) -> None:
        self.tally.compared += 1
        if found != expected:
            self.tally.wrong(kind, f"{found!r} instead of {expected!r}")


def completion(number: int, **more: Any) -> Body:
    """One of the prompts, always with the same length of answer."""
    prompt = f"Power {'is scarce ' * (number % 4)}{number}"
    return {"model": MODEL, "prompt": prompt, "max_tokens": LONGEST_ANSWER - 3 * number, **more}


def chat(number: int) -> Body:
    """The same as a chat, greedy."""
    message = {"role": "user", "content": f"Power {'is scarce ' * (number % 4)}{number}"}
    return {"model": MODEL, "messages": [message], "max_tokens": LONGEST_ANSWER - 3 * number, "temperature": 0}


async def known_answers(url: str) -> dict[str, str]:
    """What the worker says when it is asked alone, before anything else happens."""
    known = {}
    async with httpx.AsyncClient(base_url=url, timeout=60) as http:
        for number in range(_PROMPTS):
            drawn = completion(number, temperature=1.0, top_p=0.9, seed=number)
            for body in (completion(number, temperature=0), drawn, chat(number)):
                path = "/v1/chat/completions" if "messages" in body else "/v1/completions"
                answer = await http.post(path, json=body)
                (choice,) = answer.raise_for_status().json()["choices"]
                known[_name(body)] = choice["message"]["content"] if "messages" in body else choice["text"]
    return known


def _name(body: Body) -> str:
    return orjson.dumps(body, option=orjson.OPT_SORT_KEYS).decode()


async def _events(answer: httpx.Response) -> Any:
    """The events of a stream as JSON; None for its last."""
    async for line in answer.aiter_lines():
        if line.startswith("data: "):
            yield None if line == "data: [DONE]" else orjson.loads(line.removeprefix("data: "))
