"""A `transformers` model on this machine as teacher: tiny ones with random weights, made here."""

import asyncio
import json

import pytest

from distill.tasks.records import Record
from distill.teacher import ExtractConfig, LocalConfig, Sampling, TeacherStoppedError, extract
from distill.teacher.clients.local import _cut
from distill.teacher.clients.replies import Message, Request, RequestFailedError
from distill.teacher.job.progress import Silent

transformers = pytest.importorskip("transformers", reason="the local teacher needs transformers")
torch = pytest.importorskip("torch", reason="the local teacher needs torch")


def tokenizer(folder):
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: n for n, token in enumerate(["<pad>", "<eos>", "<unk>", *alphabet])}
    inner = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    result = transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>"
    )
    result.chat_template = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}<assistant>"
    result.save_pretrained(folder)
    return len(vocabulary)


@pytest.fixture(scope="module")
def decoder_only(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gpt")
    size = tokenizer(folder)
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=size,
        n_positions=2048,
        n_embd=16,
        n_layer=1,
        n_head=2,
        bos_token_id=1,
        eos_token_id=1,
        pad_token_id=0,
    )
    transformers.GPT2LMHeadModel(config).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def encoder_decoder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("t5")
    size = tokenizer(folder)
    torch.manual_seed(0)
    config = transformers.T5Config(
        vocab_size=size,
        d_model=16,
        d_kv=8,
        d_ff=16,
        num_layers=1,
        num_heads=2,
        decoder_start_token_id=0,
        eos_token_id=1,
        pad_token_id=0,
    )
    transformers.T5ForConditionalGeneration(config).save_pretrained(folder)
    return str(folder)


def ask(config, requests):
    async def run():
        teacher = config.open()
        try:
            return await asyncio.gather(*(teacher.ask(request) for request in requests), return_exceptions=True)
        finally:
            await teacher.close()

    return asyncio.run(run())


def questions(number, **changes):
    return [
        Request(f"r{n}", "t", "m", prompt="Q: how " + "many " * n + "apples?\nA:", **changes) for n in range(number)
    ]


def test_batches_say_what_single_questions_say(decoder_only):
    sampling = Sampling(max_tokens=12)
    config = LocalConfig(decoder_only, sampling=sampling, dtype="float32")
    together = ask(config, questions(5, sampling=sampling))
    alone = [
        ask(LocalConfig(decoder_only, sampling=sampling, batch_size=1, dtype="float32"), [q])[0]
        for q in questions(5, sampling=sampling)
    ]
    assert [reply.candidates[0].text for reply in together] == [reply.candidates[0].text for reply in alone]
    for reply, question in zip(together, questions(5)):
        assert reply.usage.prompt_tokens == len(question.prompt) and 0 < reply.usage.completion_tokens <= 12
    assert {reply.candidates[0].finish for reply in together} <= {"stop", "length"}


def test_samples_differ_and_can_be_repeated(decoder_only):
    sampling = Sampling(temperature=1.5, max_tokens=10, seed=3)
    asked = questions(2, sampling=sampling, samples=4)
    config = LocalConfig(decoder_only, sampling=sampling)
    first, second = ask(config, asked), ask(config, asked)
    assert len({choice.text for choice in first[0].candidates}) > 1
    assert [reply.candidates for reply in first] == [reply.candidates for reply in second]


def test_chat_goes_through_the_template(decoder_only):
    messages = (Message("system", "Be brief."), Message("user", "Why?"))
    sampling = Sampling(max_tokens=4)
    (reply,) = ask(
        LocalConfig(decoder_only, endpoint="chat", sampling=sampling),
        [Request("r", "t", "m", messages=messages, sampling=sampling)],
    )
    assert reply.usage.prompt_tokens == len("<system>Be brief.<user>Why?<assistant>")


def test_a_prompt_that_is_too_long_is_a_counted_failure_and_cuts_nobody_short(decoder_only):
    sampling = Sampling(max_tokens=4)
    asked = [Request("long", "t", "m", prompt="x" * 500, sampling=sampling), *questions(2, sampling=sampling)]
    outcomes = ask(LocalConfig(decoder_only, sampling=sampling, longest_prompt=100), asked)
    assert isinstance(outcomes[0], RequestFailedError)
    assert outcomes[0].failure.detail == "the prompt has 500 tokens; at most 100 fit"
    assert all(reply.candidates for reply in outcomes[1:])


def test_the_whole_phase_with_an_encoder_decoder(encoder_decoder, tmp_path):
    teacher = LocalConfig(encoder_decoder, name="tiny", sampling=Sampling(max_tokens=8))
    config = ExtractConfig(
        output=str(tmp_path / "out.jsonl"),
        prompt="template",
        teachers=(teacher,),
        records=[Record(f"r{n}", f"message {n}", label="billing") for n in range(3)],
    )
    report = extract(config, progress=Silent())
    assert report.finished == 3 and report.written == 3 and sum(report.unreadable.values()) == 3, (
        "random weights explain nothing"
    )
    (asked,) = json.loads((tmp_path / "out.jsonl").read_text().splitlines()[0])["provenance"]["teachers"]
    assert asked["teacher"] == "tiny" and "@" in asked["model"]
    assert extract(config, progress=Silent()).cached == 3


def test_new_weights_are_a_new_teacher(decoder_only, tmp_path):
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(decoder_only, copy)
    before = LocalConfig(str(copy)).model_key()
    assert LocalConfig(str(copy)).model_key() == before
    (copy / "config.json").write_text((copy / "config.json").read_text() + " ")
    assert LocalConfig(str(copy)).model_key() != before


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(TeacherStoppedError, match="no local model"):
        LocalConfig(str(tmp_path)).open()
    with pytest.raises(ValueError, match="batch_size must be ≥ 1"):
        LocalConfig("m", batch_size=0)


def test_stop_strings_cut():
    assert _cut("why. So yes.\nQ: more", ("\nQ:",), True).text == "why. So yes."
    assert _cut("why", ("\nQ:",), True).finish == "length"
