"""A trained student for serving: as a Hugging Face folder, for CTranslate2, or as a T5X checkpoint."""

import dataclasses
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from distill import triton_loading, validation
from distill.checkpoints import conversion, huggingface, leftovers
from distill.checkpoints import t5x as t5x_checkpoints
from distill.checkpoints.conversion import Source
from distill.checkpoints.huggingface import tokenizer_files
from distill.checkpoints.weights import Weights
from distill.inference import model_card, model_directory
from distill.inference.decoder import DecodeConfig
from distill.inference.student import FORMS, check_vocabulary
from distill.model.config import T5Config
from distill.model.configs import family
from distill.model.parameters import param_count
from distill.tasks import texts
from distill.tasks.texts import Vocabulary

FORMATS = ("hf", "ct2", "t5x")
QUANTIZATIONS = ("int8", "int8_float32", "int8_float16", "int8_bfloat16", "int16", "float16", "bfloat16", "float32")


def export(
    model_dir: str,
    output: str,
    format: str = "hf",
    *,
    vocabulary: Vocabulary,
    label_prefix: str = "[label] ",
    rationale_prefix: str = "[rationale] ",
    form: str = "label",
    encoder_bos: bool = False,
    decode: DecodeConfig = DecodeConfig(),
    dataset: str | None = None,
    quantization: str | None = None,
    model_type: str | None = None,
    layout: str = "t5",
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Writes the parameters that validated best (else the newest), with all files that inference needs.

    Args:
      model_dir: where the student was trained.
      output: a new or empty folder.
      format: ``hf`` (config, safetensors, tokenizer, generation config and a model card), ``ct2`` (CTranslate2's model with
        the same tokenizer and card) or ``t5x`` (a native checkpoint, ``<output>/checkpoint_<step>``).
      vocabulary: the student's; the exported tokenizer gives the same ids.
      label_prefix, rationale_prefix: the student's; recorded in the card and in ``task_specific_params``.
      form: ``label``; ``single`` for a student that gives rationale and label in one target (which has no prefix); or
        ``shared_label`` for one whose targets, not inputs, begin with the prefixes.
      encoder_bos: whether BOS precedes the tokens of an input: the exported tokenizer puts it there.
      decode: how labels are decoded: the defaults for ``generate``.
      dataset: the data set's name, for the card.
      quantization: with ``ct2``: ``int8`` or another of CTranslate2's; None keeps float32.
      model_type: see :func:`~distill.checkpoints.huggingface.config.config_to_hf`.
      layout: of ``t5x``, see :func:`distill.checkpoints.t5x.checkpoint.write`.
      progress: called with the number of parameters (scalars) read so far, and of all, after each array.

    Returns:
      ``output``.

    Raises:
      FileNotFoundError: ``model_dir`` holds no student.
      ValueError: an unknown format, form or quantization, a folder that holds something, a vocabulary that is too large, or
        a network that the format cannot represent.
      ModuleNotFoundError: ``ct2`` without CTranslate2 and transformers; names the packages to install.
    """
    if format not in FORMATS:
        raise ValueError(f"format must be one of {', '.join(FORMATS)}; got {format!r}")
    validation.check("form", form, FORMS)
    if quantization is not None and format != "ct2":
        raise ValueError(f"quantization is ct2's; got {quantization!r} with format {format!r}")
    if quantization is not None and quantization not in QUANTIZATIONS:
        raise ValueError(f"quantization must be one of {', '.join(QUANTIZATIONS)}; got {quantization!r}")
    if format != "t5x":
        validation.check_local("an exported folder", output)
    folder = Path(output)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{output} is not an empty folder; name another")
    if conversion.kind_of(model_dir) != conversion.DISTILL:
        raise ValueError(f"{model_dir} is no model directory of this program; `distill convert` converts others")
    if warning := model_directory.unfinished(model_dir):
        logging.warning("%s", warning)
    prefixes = {"single": ""} if form == "single" else {"label": label_prefix, "rationale": rationale_prefix}
    prompted = form == "shared_label"
    fields: dict[str, dict[str, Any]] = {name: {"prefix": prefix} for name, prefix in prefixes.items()}
    if prompted:
        prompts = {name: texts.prompt(vocabulary, prefix) for name, prefix in prefixes.items()}
        fields = {name: {"prefix": "", "decoder_prompt_ids": ids} for name, ids in prompts.items()}
    with (
        conversion.open_source(model_dir, scan_layers=False) as source,
        leftovers.removed_on_failure(folder),
    ):
        check_vocabulary(vocabulary, source.config)
        if format == "t5x":
            config = conversion.t5_only(source.config)
            read = _counted(Weights(source.checkpoint, config).read, param_count(config), progress)
            t5x_checkpoints.write(read, config, output, source.checkpoint.step or 0, layout=layout)
            return folder
        folder.mkdir(parents=True, exist_ok=True)
        if format == "hf":
            _write_hf(folder, source, vocabulary, fields, decode, model_type, encoder_bos, progress)
        else:
            with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as scratch:
                _write_hf(Path(scratch), source, vocabulary, fields, decode, model_type, encoder_bos, progress)
                _write_ct2(Path(scratch), folder, source, quantization)
        run = Path(os.fspath(model_dir))
        if (run / model_card.CONFIG).is_file():
            shutil.copyfile(run / model_card.CONFIG, folder / model_card.CONFIG)
        longest = model_card.target_length(run)
        start = 0 if isinstance(source.config, T5Config) else source.config.decoder_start_id
        model_card.write(
            folder / "README.md",
            run,
            parameters=param_count(source.config),
            step=source.checkpoint.step,
            usage=_USAGE[format, prompted].format(start=start, more="", **_usage(prefixes, fields, decode)),
            rationale_usage=_USAGE[format, prompted].format(
                start=start,
                more=f", max_new_tokens={longest}",
                **_usage(
                    {"rationale": rationale_prefix},
                    {"rationale": fields["rationale"]},
                    dataclasses.replace(decode, max_decode_len=longest),
                ),
            )
            if "rationale" in fields
            else None,
            prefixes=prefixes,
            library="transformers" if format == "hf" else "ctranslate2",
            dataset=dataset,
            prompted=prompted,
            family=family(source.config),
        )
    return folder


def _counted(
    read: Callable[[str], np.ndarray], total: int, progress: Callable[[int, int], None] | None
) -> Callable[[str], np.ndarray]:
    """``read``, followed by a call of ``progress``."""
    done = 0

    def counted(name: str) -> np.ndarray:
        nonlocal done
        array = read(name)
        done += array.size
        if progress is not None:
            progress(done, total)
        return array

    return counted


def _usage(
    prefixes: Mapping[str, str], fields: Mapping[str, Mapping[str, Any]], decode: DecodeConfig
) -> dict[str, Any]:
    beams = decode.num_beams if decode.method == "beam" else 1
    prefix = json.dumps(next(iter(prefixes.values())), ensure_ascii=False)
    prompt = next(iter(fields.values())).get("decoder_prompt_ids", [])
    return {"prefix": prefix, "prompt": prompt, "length": decode.max_decode_len, "beams": beams}


_HF_USAGE = """
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained(".")
model = AutoModelForSeq2SeqLM.from_pretrained(".")
inputs = tokenizer({prefix} + "the question", return_tensors="pt")
print(tokenizer.decode(model.generate(**inputs{more})[0], skip_special_tokens=True))
"""

_CT2_USAGE = """
import ctranslate2
from transformers import AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained(".")
translator = ctranslate2.Translator(".")
tokens = tokenizer.convert_ids_to_tokens(tokenizer({prefix} + "the question").input_ids)
[answer] = translator.translate_batch([tokens], beam_size={beams}, max_decoding_length={length})
print(tokenizer.decode(tokenizer.convert_tokens_to_ids(answer.hypotheses[0]), skip_special_tokens=True))
"""

_HF_PROMPTED = """
import torch
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained(".")
model = AutoModelForSeq2SeqLM.from_pretrained(".")
prompt = torch.tensor([[{start}, *{prompt}]])  # the start token, and {prefix}
inputs = tokenizer("the question", return_tensors="pt")
[answer] = model.generate(**inputs, decoder_input_ids=prompt{more})
print(tokenizer.decode(answer[prompt.shape[1] :], skip_special_tokens=True))
"""

_CT2_PROMPTED = """
import ctranslate2
from transformers import AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained(".")
translator = ctranslate2.Translator(".")
prompt = tokenizer.convert_ids_to_tokens({prompt})  # {prefix}
tokens = tokenizer.convert_ids_to_tokens(tokenizer("the question").input_ids)
[answer] = translator.translate_batch(
    [tokens], target_prefix=[prompt], beam_size={beams}, max_decoding_length=len(prompt) + {length}
)
print(tokenizer.decode(tokenizer.convert_tokens_to_ids(answer.hypotheses[0][len(prompt) :]), skip_special_tokens=True))
"""

_USAGE = {
    ("hf", False): _HF_USAGE,
    ("hf", True): _HF_PROMPTED,
    ("ct2", False): _CT2_USAGE,
    ("ct2", True): _CT2_PROMPTED,
}


def _write_hf(
    folder: Path,
    source: Source,
    vocabulary: Vocabulary,
    fields: Mapping[str, Mapping[str, Any]],
    decode: DecodeConfig,
    model_type: str | None,
    encoder_bos: bool,
    progress: Callable[[int, int], None] | None,
) -> None:
    generation: dict[str, Any] = {"max_new_tokens": decode.max_decode_len, "do_sample": decode.method == "sample"}
    if decode.method == "beam":
        generation |= {"num_beams": decode.num_beams, "length_penalty": decode.length_penalty}
    elif decode.method == "sample":
        generation |= {"temperature": decode.temperature, "top_k": decode.top_k}
    huggingface.write(
        _counted(Weights(source.checkpoint, source.config).read, param_count(source.config), progress),
        source.config,
        folder,
        model_type=model_type,
        fields={"task_specific_params": fields},
        generation=generation,
    )
    tokenizer_files.write(folder, vocabulary, encoder_bos=encoder_bos)


def _write_ct2(hf_folder: Path, folder: Path, source: Source, quantization: str | None) -> None:
    triton_loading.load()  # the converter imports torch, maybe after TensorFlow
    try:
        from ctranslate2 import converters
        from ctranslate2.specs import model_spec
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"{error}; pip install 'distill-step-by-step[serve]' installs what format 'ct2' needs"
        ) from error
    if not isinstance(source.config, T5Config):
        raise ValueError(f"format 'ct2' is for T5; a {family(source.config)} is exported as 'hf'")
    if source.config.relative_bias_per_layer:
        raise ValueError(
            "CTranslate2 runs no network with a position bias in every layer (umT5); format 'hf' can be served"
        )

    class Converter(converters.TransformersConverter):
        """Takes the scale of the decoder's output from the configuration.

        transformers 5 sets every T5 as tied, and CTranslate2 scales the output of tied models.
        """

        def _load(self) -> model_spec.ModelSpec:
            spec = super()._load()
            if not source.config.logits_via_embedding:
                spec.decoder.scale_outputs = model_spec.OPTIONAL
            return spec

    Converter(str(hf_folder)).convert(str(folder), quantization=quantization, force=True)
    for name in ("tokenizer_config.json", "tokenizer.json", tokenizer_files.MODEL_FILE):
        if (hf_folder / name).exists():
            shutil.copyfile(hf_folder / name, folder / name)
