"""The contract of text encoders, for the built-in one and for those of transformers."""

import pytest
import torch

from continuous_unet import ContinuousUNet2DModel
from continuous_unet.base.errors import InputError
from continuous_unet.tasks.facts import Facts, TextFacts, read_facts, write_facts
from continuous_unet.text.encoders import learn_encoder
from continuous_unet.text.transformer import TextEncoderConfig, TextTransformer

from .encoders import CAPTIONS, KINDS, make_encoder

PROMPTS = ["a red square", "", "a blue circle above a red square left of a blue circle above a red square"]


def make_unet(encoder):
    torch.manual_seed(0)
    unet = ContinuousUNet2DModel(
        sample_size=8, block_out_channels=(8, 8), norm_num_groups=4, **encoder.model_arguments()
    )
    for parameter in unet.parameters():  # those that start at zero would hide the text
        torch.nn.init.normal_(parameter, std=0.2)
    return unet.eval()


@pytest.mark.parametrize("kind", KINDS)
def test_training_and_sampling_see_the_same_text(kind, tmp_path):
    encoder = make_encoder(kind, tmp_path)
    unet = make_unet(encoder)
    tokens = encoder.tokenise(PROMPTS)
    assert tokens.input_ids.shape == tokens.attention_mask.shape == (3, encoder.max_length)
    assert tokens.input_ids.dtype == torch.long
    x, times = torch.randn(3, 3, 8, 8), torch.tensor([5, 5, 5])
    with torch.no_grad():
        trained = unet(x, times, **encoder.arguments(tokens)).sample
        sampled = unet(x, times, **encoder.encode(PROMPTS, unet)).sample
        torch.testing.assert_close(trained, sampled)
        alone = unet(x[:1], times[:1], **encoder.encode(PROMPTS[:1], unet)).sample
        torch.testing.assert_close(alone, sampled[:1], atol=1e-5, rtol=1e-4)  # padding and neighbours do not matter
        other = unet(x[:1], times[:1], **encoder.encode(["a blue square"], unet)).sample
    assert (alone - other).abs().max() > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_an_encoder_is_found_again_by_the_facts(kind, tmp_path):
    encoder = make_encoder(kind, tmp_path / "encoder")
    write_facts(tmp_path, Facts(text=TextFacts(**encoder.describe())))
    facts = read_facts(tmp_path)
    facts.check_model(make_unet(encoder).config)
    found = facts.text.make_encoder()
    assert found is read_facts(tmp_path).text.make_encoder()
    assert all(map(torch.equal, found.tokenise(PROMPTS), encoder.tokenise(PROMPTS)))
    assert [found.is_cut(prompt) for prompt in PROMPTS] == [False, False, True]


def test_masked_tokens_do_not_count():
    torch.manual_seed(0)
    network = TextTransformer(TextEncoderConfig(9, max_length=6, width=8, heads=2))
    states, mask = network(torch.tensor([[1, 5, 2, 0, 0, 0]]))
    assert mask.tolist() == [[True, True, True, False, False, False]]
    torch.testing.assert_close(states[:, :3], network(torch.tensor([[1, 5, 2]]))[0])
    with pytest.raises(ValueError, match=r"input_ids has shape \(1, 7\); expected \(B, L\), L at most 6"):
        network(torch.ones(1, 7, dtype=torch.long))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "needs vocabulary_size"),
        ({"vocabulary_size": 9, "widht": 8}, "unknown setting 'widht'; expected vocabulary_size"),
        ({"vocabulary_size": 9, "layers": 0}, "layers=0 must be an integer of at least 1"),
        ({"vocabulary_size": 9, "heads": 3}, "heads=3 does not divide width=128"),
        ({"vocabulary_size": 9, "width": 64}, "cross_attention_dim=128 must be the width of text_encoder_config, 64"),
    ],
)
def test_settings_that_cannot_be(settings, message):
    with pytest.raises(ValueError, match=message):
        ContinuousUNet2DModel(block_out_channels=(8,), cross_attention_dim=128, text_encoder_config=settings)


def test_facts_that_do_not_fit_the_model(tmp_path):
    encoder = learn_encoder("built-in", CAPTIONS)
    config, described = make_unet(encoder).config, encoder.describe()
    for changes, message in (
        ({"max_length": 8}, r"text.vocabulary has \d+ tokens and max_length is 8, and the model was made for"),
        ({"encoder": "other"}, "text.encoder is 'other', and the model was not made for it"),
    ):
        with pytest.raises(InputError, match=message):
            Facts(text=TextFacts(**described | changes)).check_model(config)
    with pytest.raises(ValueError, match="vocabulary must begin with <pad>, <start>, <end>, <unknown>"):
        TextFacts(**described | {"vocabulary": ("a", "b")})
    with pytest.raises(ValueError, match="vocabulary has a token twice"):
        TextFacts(**described | {"vocabulary": (*described["vocabulary"], "a")})


def test_the_order_of_words_counts():
    """Without it, "a red square above a blue circle" could not be told from the opposite, not even by the mean."""
    encoder = learn_encoder("built-in", CAPTIONS)
    unet = make_unet(encoder)
    texts = ["a red square above a blue circle", "a blue circle above a red square"]
    one, other = encoder.encode(texts, unet)["encoder_hidden_states"]
    assert (one.mean(dim=0) - other.mean(dim=0)).abs().max() > 1e-2


def test_an_encoder_that_is_missing():
    pytest.importorskip("transformers")
    with pytest.raises(InputError, match=r"the text encoder ./nowhere cannot be loaded \(.*; expected built-in"):
        learn_encoder("./nowhere", CAPTIONS)
