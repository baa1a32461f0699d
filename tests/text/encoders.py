"""Text encoders for tests: the built-in one, and tiny random ones of transformers, which need no hub."""

import pytest
import torch

from continuous_unet.text.encoders import learn_encoder

CAPTIONS = ["a red square above a blue circle", "a blue circle", "a red circle left of a blue square"]
KINDS = ("built-in", "clip", "t5", "bert")


def save_pretrained(kind, path):
    """Writes a random encoder and its tokenizer; returns the folder."""
    transformers = pytest.importorskip("transformers")
    tokenizers = pytest.importorskip("tokenizers")
    words = ["<pad>", "<s>", "</s>", "<unk>", *sorted({word for caption in CAPTIONS for word in caption.split()})]
    fast = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>")
    )
    fast.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    fast.post_processor = tokenizers.processors.TemplateProcessing("<s> $A </s>", None, [("<s>", 1), ("</s>", 2)])
    marks = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    transformers.PreTrainedTokenizerFast(tokenizer_object=fast, **marks).save_pretrained(path)
    size = {"vocab_size": len(words), "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    size |= {"intermediate_size": 16, "max_position_embeddings": 20}
    marks = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    torch.manual_seed(0)
    if kind == "clip":
        model = transformers.CLIPTextModel(transformers.CLIPTextConfig(**size, **marks))
    elif kind == "t5":
        config = {"d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2, "vocab_size": len(words)}
        model = transformers.T5EncoderModel(transformers.T5Config(**config))
    else:
        model = transformers.BertModel(transformers.BertConfig(**size))
    model.save_pretrained(path, safe_serialization=True)
    return path


def make_encoder(kind, path):
    return learn_encoder(kind if kind == "built-in" else str(save_pretrained(kind, path)), CAPTIONS)
