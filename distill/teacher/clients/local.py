"""A teacher on this machine: a `transformers` model. Slower than a server; no data leaves the machine."""

import asyncio
import dataclasses
import datetime
import hashlib
import pathlib
import time
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

from distill import triton_loading, validation
from distill.teacher.clients.completion import ENDPOINTS, printable
from distill.teacher.clients.cost import Prices
from distill.teacher.clients.replies import (
    END,
    LENGTH,
    Candidate,
    Reply,
    Request,
    RequestFailedError,
    Sampling,
    TeacherSettingsError,
    Usage,
)
from distill.teacher.clients.store import ReplyStore


@dataclasses.dataclass(frozen=True)
class LocalConfig:
    """Configuration of a local teacher.

    Attributes:
      model: a folder, or a model's name on the hub; decoder-only or encoder-decoder.
      name: the teacher's name in this job; by default the model's name.
      endpoint: ``chat``: uses the tokenizer's chat template. ``completions``: one text to continue.
      sampling: temperature and the like.
      batch_size: number of prompts per batch.
      device: ``cpu``, ``cuda``, …; None: a GPU if available.
      dtype: ``auto``, ``float32``, ``bfloat16``, ``float16``.
      longest_prompt: tokens; a longer prompt is a failed request; prompts are never truncated. None: the limit in the
        model's configuration.
      trust_remote_code: run code shipped with the model; only for models from a trusted source.
      prefix: task prefix of this teacher's rationales, if each teacher has a separate one.
    """

    model: str
    name: str = ""
    endpoint: Literal["chat", "completions"] = "completions"
    sampling: Sampling = Sampling()
    batch_size: int = 8
    device: str | None = None
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    longest_prompt: int | None = None
    trust_remote_code: bool = False
    prices: Prices | None = None
    prefix: str = ""
    samples_at_once: bool = False
    structured: ClassVar[str] = "off"
    extra: ClassVar[Mapping[str, Any]] = {}
    batch: ClassVar[bool] = False
    requests_per_minute: ClassVar[float | None] = None
    tokens_per_minute: ClassVar[float | None] = None

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ValueError(f"LocalConfig.batch_size must be ≥ 1; got {self.batch_size}")
        validation.check("LocalConfig.endpoint", self.endpoint, ENDPOINTS)

    @property
    def called(self) -> str:
        """The teacher's name."""
        return self.name or pathlib.Path(self.model).name

    def model_key(self) -> str:
        """The model's identifier in request keys."""
        return _fingerprint(self.model)

    def open(self) -> "LocalTeacher":
        """Loads tokenizer and weights.

        Raises:
          TeacherSettingsError: `transformers` or `torch` is not installed, or the model does not exist.
        """
        return LocalTeacher(self)


def _fingerprint(model: str) -> str:
    """The model's name; for a folder, with a hash of its files, so that new weights give new request keys."""
    folder = pathlib.Path(model)
    if not folder.is_dir():
        return model
    hashed = hashlib.sha256()
    for file in sorted(folder.iterdir()):
        if file.is_file():
            status = file.stat()
            small = file.read_bytes() if status.st_size < 2**20 else b""
            hashed.update(f"{file.name}:{status.st_size}:{'' if small else status.st_mtime_ns}".encode() + small)
    return f"{folder.name}@{hashed.hexdigest()[:16]}"


class LocalTeacher:
    """Generates with a `transformers` model; see :class:`LocalConfig`. Concurrent requests form one batch."""

    def __init__(self, config: LocalConfig):
        triton_loading.load()  # a student may have been trained in this process before
        try:
            import torch
            import transformers
        except ImportError as error:
            raise TeacherSettingsError(f"a local teacher needs transformers and torch: {error}") from None
        self.config = config
        self.name = config.called
        self.model = config.model_key()
        self.parallel = 2 * config.batch_size
        self.running: int | None = None
        self.give_up_after: int | None = 3 * config.batch_size
        self.grace_s = 600.0
        self._torch = torch
        device = config.device or ("cuda" if torch.cuda.is_available() else "cpu")
        trust = {"trust_remote_code": config.trust_remote_code}
        try:
            settings = transformers.AutoConfig.from_pretrained(config.model, **trust)
            self._encoder_decoder = bool(settings.is_encoder_decoder)
            kind = transformers.AutoModelForSeq2SeqLM if self._encoder_decoder else transformers.AutoModelForCausalLM
            self._tokenizer = transformers.AutoTokenizer.from_pretrained(config.model, padding_side="left", **trust)
            network: Any = kind.from_pretrained(config.model, dtype=config.dtype, **trust)
            self._network = network.to(device).eval()
        except (OSError, ValueError) as error:
            raise TeacherSettingsError(f"no local model {config.model!r}: {error}") from None
        if self._tokenizer.pad_token is None:
            self._tokenizer.pad_token = self._tokenizer.eos_token
        if config.endpoint == "chat" and not getattr(self._tokenizer, "chat_template", None):
            raise TeacherSettingsError(
                f"{config.model}: the tokenizer has no chat template; set endpoint='completions'"
            )
        known = getattr(settings, "max_position_embeddings", None) or getattr(settings, "n_positions", None)
        self._longest = config.longest_prompt or (known - config.sampling.max_tokens if known else None)
        self._waiting: list[tuple[Request, asyncio.Future[Reply]]] = []
        self._runner: asyncio.Task[None] | None = None

    async def wants_json(self, store: ReplyStore) -> bool:
        """False: local models reply in free text."""
        return False

    async def ask(self, request: Request) -> Reply:
        """Generates a reply.

        Raises:
          RequestFailedError: ``bad request`` (the prompt is too long), ``out of memory``.
        """
        done: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._waiting.append((request, done))
        if self._runner is None or self._runner.done():
            self._runner = asyncio.create_task(self._run())
        return await done

    def halt(self) -> None:
        """Does nothing: the running batch finishes, and the job sends no more requests."""

    async def close(self) -> None:
        """Waits for the running batch."""
        if self._runner is not None:
            await asyncio.gather(self._runner, return_exceptions=True)

    async def _run(self) -> None:
        while self._waiting:
            await asyncio.sleep(0)  # lets concurrent requests join this batch
            head = self._waiting[0][0]
            batch = [pair for pair in self._waiting if _alike(pair[0], head)][: self.config.batch_size]
            self._waiting = [pair for pair in self._waiting if pair not in batch]
            requests = [request for request, _ in batch]
            try:
                outcomes = await asyncio.to_thread(self._generate, requests)
            except Exception as error:
                reason = "out of memory" if isinstance(error, self._torch.OutOfMemoryError) else "generation failed"
                outcomes = [RequestFailedError(reason, f"{error}"[:500])] * len(batch)
            for (_, done), outcome in zip(batch, outcomes):
                if done.done():
                    continue
                if isinstance(outcome, Reply):
                    done.set_result(outcome)
                else:
                    done.set_exception(outcome)

    def _text(self, request: Request) -> str:
        if request.prompt:
            return request.prompt
        turns = [{"role": message.role, "content": message.content} for message in request.messages]
        return str(self._tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))

    def _generate(self, requests: Sequence[Request]) -> list[Reply | RequestFailedError]:
        torch, started = self._torch, time.monotonic()
        special = self.config.endpoint == "completions"  # a chat template adds the special tokens
        ids = [self._tokenizer(self._text(request), add_special_tokens=special)["input_ids"] for request in requests]
        outcomes: list[Reply | RequestFailedError] = [
            RequestFailedError("bad request", f"the prompt has {len(row)} tokens; at most {self._longest} fit")
            for row in ids
        ]
        fits = [n for n, row in enumerate(ids) if self._longest is None or len(row) <= self._longest]
        if not fits:
            return outcomes
        batch = self._tokenizer.pad({"input_ids": [ids[n] for n in fits]}, return_tensors="pt").to(self._network.device)
        sampling, request = requests[0].sampling, requests[0]
        options: dict[str, Any] = {"max_new_tokens": sampling.max_tokens, "do_sample": bool(sampling.temperature)}
        if sampling.temperature:
            options |= {"temperature": sampling.temperature, "top_p": sampling.top_p or 1.0, "top_k": 0}
            # A batch uses one generator, so its seed depends on all its requests.
            joint = "".join(requests[n].key for n in fits) + str(request.seed)
            torch.manual_seed(int(hashlib.sha256(joint.encode()).hexdigest()[:12], 16))
        if request.stop:
            options |= {"stop_strings": list(request.stop), "tokenizer": self._tokenizer}
        with torch.inference_mode():
            written = self._network.generate(
                **batch, **options, num_return_sequences=request.samples, pad_token_id=self._tokenizer.pad_token_id
            )
        start = 0 if self._encoder_decoder else batch["input_ids"].shape[1]
        texts = self._tokenizer.batch_decode(written[:, start:], skip_special_tokens=True)
        pad = self._tokenizer.pad_token_id
        lengths = [int((row != pad).sum()) for row in written[:, start:]]
        date = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        seconds = (time.monotonic() - started) / len(fits)
        for place, n in enumerate(fits):
            these = range(place * request.samples, (place + 1) * request.samples)
            candidates = tuple(_cut(texts[i], requests[n].stop, lengths[i] >= sampling.max_tokens) for i in these)
            usage = Usage(len(ids[n]), sum(lengths[i] for i in these))
            outcomes[n] = Reply(requests[n].key, candidates, self.model, usage, date, seconds)
        return outcomes


def _alike(a: Request, b: Request) -> bool:
    """Whether two requests can share a batch."""
    return (a.sampling, a.stop, a.samples, a.seed) == (b.sampling, b.stop, b.samples, b.seed)


def _cut(text: str, stops: Sequence[str], full: bool) -> Candidate:
    places = [text.find(stop) for stop in stops if stop in text]
    if places:
        return Candidate(printable(text[: min(places)]), END)
    return Candidate(printable(text), LENGTH if full else END)
