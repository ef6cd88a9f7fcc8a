"""What models, parts and DataModules can do beyond what they must."""

import pytest
import torch
from small_models import MODELS, POSTERIORS
from torch import nn

from lightning_avb import GaussianEncoder, MixturePrior, PooledMixtureEncoder, SemiImplicitEncoder, StandardNormal
from lightning_avb.capabilities import (
    DataDescription,
    Decodes,
    DensityBounds,
    DrawsParameters,
    Encodes,
    HasCodes,
    HasDensityRatio,
    HasFeatures,
    HasLikelihood,
    HasMoments,
    HasParts,
    HasPrior,
    Located,
    Samples,
    ScoredDraws,
    can,
)

GENERATIVE = {Samples, Decodes, HasCodes, HasPrior}
WITH_LIKELIHOOD = GENERATIVE | {Encodes, HasLikelihood}
EXPECTED = {
    "vae": WITH_LIKELIHOOD,
    "avb": WITH_LIKELIHOOD | {HasDensityRatio},
    "avb_score": WITH_LIKELIHOOD,
    "aae": WITH_LIKELIHOOD,
    "aae_clusters": WITH_LIKELIHOOD,
    "gan": GENERATIVE,
    "bigan": GENERATIVE | {Encodes},
    "vaegan": GENERATIVE | {Encodes},
}
ALL = {Samples, Encodes, Decodes, HasCodes, HasPrior, HasLikelihood, HasDensityRatio, DrawsParameters}


@pytest.mark.parametrize("name", EXPECTED)
def test_what_models_can_do(name):
    model = MODELS[name](data_shape=(4,), classes=10)
    assert {capability for capability in ALL if can(model, capability)} == EXPECTED[name]


def test_what_a_posterior_can_do():
    assert {capability for capability in ALL if can(POSTERIORS["posterior"](), capability)} == {DrawsParameters}


def test_parts_of_a_module_count_that_only_getattr_finds():
    """As submodules are: `isinstance` with a protocol does not see them since Python 3.12."""

    class Late(nn.Module):
        def __getattr__(self, name):
            return nn.Identity() if name == "prior" else super().__getattr__(name)

    assert can(Late(), HasPrior) and not can(Late(), HasLikelihood) and not can(nn.Identity(), HasPrior)


def test_what_distributions_and_priors_can_do():
    q = GaussianEncoder((3,), 2)(torch.zeros(1, 3))
    assert can(q, ScoredDraws) and not can(torch.distributions.Normal(0.0, 1.0), ScoredDraws)
    assert not can(torch.distributions.Normal(0.0, 1.0), HasMoments)
    assert can(MixturePrior(2), HasParts) and not can(StandardNormal(2), HasParts)


def test_what_posteriors_say_of_themselves():
    of_posteriors = {HasMoments, ScoredDraws, DensityBounds, Located}
    for part, expected in (
        (GaussianEncoder, {ScoredDraws}),
        (PooledMixtureEncoder, {HasMoments, ScoredDraws, DensityBounds}),
        (SemiImplicitEncoder, of_posteriors),
    ):
        encoder = part((3,), 2)
        q = encoder(torch.zeros(1, 3))
        assert {capability for capability in of_posteriors if can(q, capability)} == expected
        assert can(encoder, HasFeatures) == (Located in expected)
    assert q.features.shape == (1, encoder.feature_dim) and q.location.shape == q.scale.shape == (1, 2)


def test_a_datamodule_tells_what_it_has_and_only_when_asked():
    class Data:
        classes = 3

        @property
        def columns(self):
            raise AssertionError("the file is gone")

    description = DataDescription(Data())
    assert (description.classes, description.data_shape, description.log_jacobian) == (3, None, 0.0)
    assert (DataDescription(None).classes, DataDescription(None).no_data) == (None, False)
