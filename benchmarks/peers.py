"""This library beside what one would otherwise take, in one run: speed and likelihood of training, and tables.

    python benchmarks/peers.py --root DATA
    python benchmarks/peers.py --parts tables

It makes an environment of its own in `.venv/peers`, with the extra `peers`, and starts itself again in it: one of the
peers needs an older pandas.

* `training`: MNIST, statically binarised, MLPs of 300-300, 8 latent dimensions, batches of 250, Adam with 1e-3. pythae
  and Pyro get deep copies of our networks and do the same mathematics in their own loops; sides alternate as in
  `benchmarks/training.py`. Then log p(x) of 100 test images by our annealed importance sampling, of both decoders,
  after about as many steps.
* `graph`: the four points, AVB with two critic steps, the sizes of the authors' notebook, as a graph of TensorFlow with
  three session runs a step, as they trained it; before that, both sides have the same losses for the same weights and
  noise.
* `tables`: scikit-learn's breast cancer and wine, a fifth of the rows for testing, log p(x) in nats of the table's own
  units. PCA and GaussianMixture are floors; every model chooses its size, or steps, by cross-validation in the training
  rows. CTGAN and TVAE have no density: how often a random forest tells their samples from the rows, 50 % is best.
"""

from __future__ import annotations

import argparse
import copy
import logging
import os
import statistics
import subprocess
import sys
import time
import venv
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

ENVIRONMENT = Path(".venv", "peers")


def enter_environment() -> None:
    """Makes the environment if it is not there, and goes on in it."""
    if Path(sys.prefix).resolve() == ENVIRONMENT.resolve():
        return
    python = ENVIRONMENT / "bin" / "python"
    if not python.exists():
        venv.create(ENVIRONMENT, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", "--editable", ".[peers]"], check=True)
    os.execv(python, [str(python), *sys.argv])


if __name__ == "__main__":
    enter_environment()

import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402
import pytorch_lightning as pl  # noqa: E402
import torch  # noqa: E402
from sklearn.datasets import load_breast_cancer, load_wine  # noqa: E402
from sklearn.decomposition import PCA  # noqa: E402
from sklearn.mixture import GaussianMixture  # noqa: E402
from sklearn.model_selection import GridSearchCV, train_test_split  # noqa: E402
from sklearn.pipeline import make_pipeline  # noqa: E402
from sklearn.preprocessing import StandardScaler  # noqa: E402
from tables import accuracy  # noqa: E402
from torch import Tensor, nn  # noqa: E402
from torch.distributions import Bernoulli, Independent  # noqa: E402
from training import four_points, median_ratio, minibatches, player, take_turns  # noqa: E402

import lightning_avb as avb  # noqa: E402
from datamodules import MNIST, FourPoints  # noqa: E402
from lightning_avb.evaluation import log_likelihood  # noqa: E402
from lightning_avb.models.aae import AAEPlayers  # noqa: E402
from lightning_avb.models.vae import VAEPlayers  # noqa: E402
from lightning_avb.sklearn import LatentVariableEstimator  # noqa: E402

DIM, BATCH, TEST_ROWS = 8, 250, 100
MLP = partial(avb.MLP, hidden=(300, 300))
DECODER = partial(avb.BernoulliDecoder, network=MLP)

# Training. A peer has `seconds(steps)`, as an `Opponent` of benchmarks/training.py, and its decoder.


class PyroVAE:
    """SVI with a guide; the KL in closed form by TraceMeanField_ELBO."""

    def __init__(self, model: Any, rows: Tensor) -> None:
        import pyro
        import pyro.distributions as dist
        from pyro.infer import SVI, TraceMeanField_ELBO
        from pyro.optim import Adam

        pyro.clear_param_store()
        pyro.enable_validation(False)
        encoder, self.decoder = copy.deepcopy(model.encoder.network), copy.deepcopy(model.decoder.network)
        self.batches = minibatches(rows, BATCH, binarize=False)

        def generate(x: Tensor) -> None:
            pyro.module("decoder", self.decoder)
            with pyro.plate("rows", len(x)):
                z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), DIM), 1.0).to_event(1))
                pyro.sample("x", dist.Bernoulli(logits=self.decoder(z)).to_event(3), obs=x)

        def guide(x: Tensor) -> None:
            pyro.module("encoder", encoder)
            with pyro.plate("rows", len(x)):
                mean, log_scale = encoder(x).chunk(2, -1)
                pyro.sample("z", dist.Normal(mean, log_scale.exp()).to_event(1))

        self.svi = SVI(generate, guide, Adam({"lr": 1e-3}), TraceMeanField_ELBO())

    def seconds(self, steps: int) -> float:
        start = time.perf_counter()
        for _ in range(steps):
            self.svi.step(next(self.batches))
        return time.perf_counter() - start


class Pythae:
    """A model of pythae in its own trainer, with its loader cut to the steps that are asked for."""

    def __init__(self, trainer: Any, decoder: nn.Module) -> None:
        self.trainer, self.decoder = trainer, decoder
        self.trainer.prepare_training()
        self.loader = trainer.train_loader

    def seconds(self, steps: int) -> float:
        self.trainer.train_loader = _Cut(self.loader, steps)
        start = time.perf_counter()
        self.trainer.train_step(1)
        return time.perf_counter() - start


class _Cut:
    """So many batches of a loader, epoch after epoch."""

    def __init__(self, loader: Any, steps: int) -> None:
        self.loader, self.steps, self.dataset = loader, steps, loader.dataset

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Any:
        left = self.steps
        while left:
            for batch in self.loader:
                yield batch
                left -= 1
                if not left:
                    return


def pythae_networks(model: Any) -> tuple[Any, Any, Any, nn.Module]:
    """Our networks as pythae wants them: encoder, decoder, discriminator; and the network of the decoder."""
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.nn import BaseDecoder, BaseDiscriminator, BaseEncoder

    class Encoder(BaseEncoder):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.network = copy.deepcopy(model.encoder.network)

        def forward(self, x: Tensor) -> Any:
            output = self.network(x)
            mean, log_scale = output.chunk(2, -1) if output.shape[-1] == 2 * DIM else (output, output.new_zeros(()))
            return ModelOutput(embedding=mean, log_covariance=2 * log_scale)

    class Decoder(BaseDecoder):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.network = copy.deepcopy(model.decoder.network)

        def forward(self, z: Tensor) -> Any:
            return ModelOutput(reconstruction=self.network(z).sigmoid())

    class Discriminator(BaseDiscriminator):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.network = copy.deepcopy(model.discriminator)

        def forward(self, z: Tensor) -> Any:
            return ModelOutput(embedding=self.network(z).sigmoid())

    decoder = Decoder()
    return Encoder(), decoder, Discriminator() if hasattr(model, "discriminator") else None, decoder.network


def pythae_data(rows: Tensor) -> Any:
    from pythae.data.datasets import BaseDataset

    return BaseDataset(rows, torch.zeros(len(rows)))


def pythae_vae(model: Any, rows: Tensor) -> Pythae:
    from pythae.models import VAE, VAEConfig
    from pythae.trainers import BaseTrainer, BaseTrainerConfig

    encoder, decoder, _, network = pythae_networks(model)
    config = VAEConfig(input_dim=tuple(rows.shape[1:]), latent_dim=DIM, reconstruction_loss="bce")
    options = BaseTrainerConfig("runs/pythae", per_device_train_batch_size=BATCH, learning_rate=1e-3, no_cuda=True)
    return Pythae(BaseTrainer(VAE(config, encoder, decoder), pythae_data(rows), training_config=options), network)


def pythae_aae(model: Any, rows: Tensor) -> Pythae:
    from pythae.models import Adversarial_AE, Adversarial_AE_Config
    from pythae.trainers import AdversarialTrainer, AdversarialTrainerConfig

    encoder, decoder, discriminator, network = pythae_networks(model)
    config = Adversarial_AE_Config(
        input_dim=tuple(rows.shape[1:]), latent_dim=DIM, reconstruction_loss="bce", deterministic_posterior=True
    )
    options = AdversarialTrainerConfig(
        "runs/pythae",
        per_device_train_batch_size=BATCH,
        autoencoder_learning_rate=1e-3,
        discriminator_learning_rate=1e-3,
        no_cuda=True,
    )
    theirs = Adversarial_AE(config, encoder, decoder, discriminator)
    return Pythae(AdversarialTrainer(theirs, pythae_data(rows), training_config=options), network)


def our_vae() -> Any:
    encoder = partial(avb.GaussianEncoder, network=MLP)
    return avb.VAE(DIM, encoder, DECODER, players=VAEPlayers(player(1e-3)), data_shape=MNIST.data_shape)


def our_aae() -> Any:
    encoder, rates = partial(avb.DeterministicEncoder, network=MLP), AAEPlayers(*(player(1e-3) for _ in range(3)))
    return avb.AAE(DIM, encoder, DECODER, discriminator=MLP, players=rates, data_shape=MNIST.data_shape)


PEERS: dict[str, tuple[Callable[[], Any], Callable[[Any, Tensor], Any], str]] = {
    "pythae, VAE": (our_vae, pythae_vae, "no exact resuming; log p(x) from q alone"),
    "pythae, AAE": (our_aae, pythae_aae, "no exact resuming; no log p(x)"),
    "Pyro, VAE by SVI": (our_vae, PyroVAE, "no trainer: no resuming, ddp or checkpoints; log p(x) from q alone"),
}


def log_p(decoder: nn.Module, x: Tensor) -> str:
    """log p(x) of test images, and what annealing says against it."""
    network = decoder.eval()
    found = log_likelihood(lambda z: Independent(Bernoulli(logits=network(z)), 3), x, latent_dim=DIM)
    return f"{found.mean:.2f}" + ("" if found.trusted else f" ({found.objection})")


def compete(name: str, precision: Any, options: argparse.Namespace) -> str:
    """A row of the table."""
    make, peer, missing = PEERS[name]
    data = MNIST(options.root, batch_size=BATCH, binarize="static")
    data.setup("fit")
    rows = torch.cat([batch.x for batch in data.train_dataloader()])
    pl.seed_everything(0, verbose=False)
    ours = make()
    theirs = peer(ours, rows)
    turns = take_turns(ours, theirs, data, options, precision)
    speeds = [f"{BATCH * statistics.median(speed):,.0f}" for speed in (turns.theirs, turns.ours)]
    data.setup("test")
    x = next(iter(data.test_dataloader())).x[:TEST_ROWS]
    figures = [log_p(network, x) for network in (theirs.decoder, ours.decoder.network)]
    ratio = median_ratio(turns.ours, turns.theirs)
    return f"| {name} | {precision} | {speeds[0]} | {speeds[1]} | {ratio} | {' | '.join(figures)} | {missing} |"


class Graph:
    """AVB with its networks in a graph of TensorFlow 1: one run of the session for the model, one for each critic step.

    The weights are copies of those of `training.four_points`, and every run draws rows and noise anew.
    """

    batch = 512

    def __init__(self, model: Any, threads: int) -> None:
        import tensorflow.compat.v1 as tf

        tf.disable_eager_execution()
        self.tf, self.steps_of_critic = tf, model.players["critic"].steps
        encoder, decoder, critic = model.encoder.network, model.decoder.network, model.density_ratio.critic
        self.groups: dict[str, list[Any]] = {"model": [], "critic": []}
        self.x = tf.one_hot(tf.random_uniform([self.batch], 0, 4, tf.int32), 4)
        self.eps = tf.random_normal([self.batch, encoder.noise[0].in_features])
        self.prior_z = tf.random_normal([self.batch, model.latent_dim])
        first = self.layer("model", encoder.layers[0], encoder.noise[0])
        others = [self.layer("model", layer) for layer in encoder.layers[1:]]
        z = self.chain([first, *others], tf.concat([self.x, self.eps], 1))
        logits = self.chain([self.layer("model", m) for m in decoder.layers if isinstance(m, nn.Linear)], z)
        pair = self.layer("critic", critic.x_branch.layers[0], critic.z_branch)
        blocks = [
            [self.layer("critic", m) for m in block.branch if isinstance(m, nn.Linear)] for block in critic.trunk[:-1]
        ]
        head = self.layer("critic", critic.head)

        def ratio(at: Any) -> Any:
            h = pair(tf.concat([self.x, at], 1))
            for block in blocks:
                h += self.chain(block, tf.nn.elu(h))
            return tf.squeeze(head(tf.nn.elu(h)), 1)

        cross_entropy = tf.nn.sigmoid_cross_entropy_with_logits
        on_posterior, on_prior = ratio(z), ratio(self.prior_z)
        reconstruction = tf.reduce_sum(cross_entropy(labels=self.x, logits=logits), 1)
        told = cross_entropy(labels=tf.ones_like(on_posterior), logits=on_posterior)
        told += cross_entropy(labels=tf.zeros_like(on_prior), logits=on_prior)
        self.losses = {"model": tf.reduce_mean(reconstruction + on_posterior), "critic": tf.reduce_mean(told)}
        rates = {name: model.players[name].optimizer.keywords["lr"] for name in self.losses}
        self.moves = {
            name: tf.train.AdamOptimizer(rates[name]).minimize(loss, var_list=self.groups[name])
            for name, loss in self.losses.items()
        }
        self.session = tf.Session(
            config=tf.ConfigProto(intra_op_parallelism_threads=threads, inter_op_parallelism_threads=threads)
        )
        self.session.run(tf.global_variables_initializer())
        self.check(model)

    def layer(self, player: str, linear: nn.Linear, second: nn.Linear | None = None) -> Callable[[Any], Any]:
        """A linear map with these weights; of two inputs, one after the other, if there is a second."""
        weight = linear.weight if second is None else torch.cat([linear.weight, second.weight], 1)
        made = [self.tf.Variable(tensor.detach().T.numpy()) for tensor in (weight, linear.bias)]
        self.groups[player].extend(made)
        return lambda inputs: self.tf.matmul(inputs, made[0]) + made[1]

    def chain(self, layers: list[Callable[[Any], Any]], h: Any) -> Any:
        for layer in layers[:-1]:
            h = self.tf.nn.elu(layer(h))
        return layers[-1](h)

    def check(self, model: Any) -> None:
        """Raises AssertionError unless both sides have the same losses."""
        *drawn, theirs = self.session.run([self.x, self.eps, self.prior_z, self.losses])
        x, eps, prior_z = map(torch.from_numpy, drawn)
        with torch.no_grad():
            z = model.encoder.network(model.encoder.network.features(x), eps[None])
            on_posterior, on_prior = model.density_ratio.critic(x, torch.stack([z[0], prior_z]))
            reconstruction = -model.decoder(z).log_prob(x)
        softplus = nn.functional.softplus
        ours = {
            "model": (on_posterior + reconstruction).mean(),
            "critic": (softplus(-on_posterior) + softplus(on_prior)).mean(),
        }
        for name, loss in ours.items():
            torch.testing.assert_close(loss, torch.tensor(theirs[name]), rtol=1e-4, atol=1e-5)

    def seconds(self, steps: int) -> float:
        start = time.perf_counter()
        for _ in range(steps):
            self.session.run([self.losses["model"], self.moves["model"]])
            for _ in range(self.steps_of_critic):
                self.session.run(self.moves["critic"])
        return time.perf_counter() - start


def graph(options: argparse.Namespace) -> None:
    print("| precision of ours | TensorFlow, steps/s | lightning_avb | ratio (median, min-max) |\n|---|---|---|---|")
    for precision in options.precisions:
        pl.seed_everything(0, verbose=False)
        ours = four_points()
        theirs = Graph(ours, torch.get_num_threads())
        turns = take_turns(ours, theirs, FourPoints(batch_size=Graph.batch), options, precision)
        speeds = [f"{statistics.median(speed):.1f}" for speed in (turns.theirs, turns.ours)]
        print(f"| {precision} | {' | '.join(speeds)} | {median_ratio(turns.ours, turns.theirs)} |", flush=True)


def training(options: argparse.Namespace) -> None:
    print("| peer | ours in | its images/s | ours | ratio (median, min-max) | its log p(x) | ours | what it lacks |")
    print("|---" * 8 + "|", flush=True)
    for name in PEERS:
        for precision in options.precisions:
            print(compete(name, precision, options), flush=True)


# Tables.


def standardised(estimator: Any) -> Any:
    return make_pipeline(StandardScaler(), estimator)


def searches() -> dict[str, Any]:
    """Models with a density, and what they choose by cross-validation."""
    steps = {"max_steps": [300, 1000, 3000]}
    ours = {
        name: GridSearchCV(LatentVariableEstimator(name, 8, random_state=0), steps, cv=3) for name in ("vae", "avb")
    }
    sizes = {"gaussianmixture__n_components": [1, 2, 3, 5, 8, 12]}
    dimensions = {"pca__n_components": [1, 2, 4, 6, 8, 10]}
    mixture = GaussianMixture(reg_covar=1e-3, random_state=0)
    return {
        "PCA (probabilistic)": GridSearchCV(standardised(PCA(svd_solver="full")), dimensions, cv=3),
        "GaussianMixture": GridSearchCV(standardised(mixture), sizes, cv=3),
        "lightning_avb, VAE": ours["vae"],
        "lightning_avb, AVB": ours["avb"],
    }


def in_own_units(model: Any, rows: np.ndarray) -> np.ndarray:
    """log p(x) of rows in the table's units, of our estimator or of a pipeline that standardises them first."""
    log_scale = np.log(model[0].scale_).sum() if hasattr(model, "steps") else 0.0
    return np.asarray(model.score_samples(rows)) - log_scale


def tables(options: argparse.Namespace) -> None:
    print(
        "| table | model | chose | log p of test rows: mean +- error (median) | a forest tells its samples | seconds |"
    )
    print("|---" * 6 + "|", flush=True)
    for title, load in (("breast cancer", load_breast_cancer), ("wine", load_wine)):
        rows = load(as_frame=True).data
        train, test = train_test_split(rows, test_size=0.2, random_state=0)
        for name, search in searches().items():
            start = time.perf_counter()
            search.fit(train.to_numpy())
            seconds, value = time.perf_counter() - start, in_own_units(search.best_estimator_, test.to_numpy())
            error = value.std() / len(value) ** 0.5
            figures = f"{value.mean():.2f} +- {error:.2f} ({np.median(value):.2f})"
            chosen = ", ".join(f"{key.rpartition('__')[2]} {choice}" for key, choice in search.best_params_.items())
            told = percent_told(rows, sampled(search.best_estimator_, len(rows), rows.columns))
            print(f"| {title} | {name} | {chosen} | {figures} | {told} | {seconds:.0f} |", flush=True)
        for name, told, seconds in without_density(rows, train):
            print(f"| {title} | {name} | its defaults | has none | {told} | {seconds:.0f} |", flush=True)


def sampled(model: Any, count: int, names: Any) -> pd.DataFrame | None:
    """Rows that a model draws; None: it cannot."""
    if not hasattr(model, "steps"):
        return pd.DataFrame(model.sample(count, random_state=0), columns=names)
    scaler, last = model[0], model[-1]
    if not hasattr(last, "sample"):
        return None
    return pd.DataFrame(scaler.inverse_transform(last.sample(count)[0]), columns=names)


def percent_told(rows: pd.DataFrame, drawn: pd.DataFrame | None) -> str:
    return "draws none" if drawn is None else f"{100 * accuracy(rows, drawn, 0):.1f} %"


def without_density(rows: pd.DataFrame, train: pd.DataFrame) -> list[tuple[str, str, float]]:
    from ctgan import CTGAN, TVAE

    found = []
    for name, model in (("CTGAN", CTGAN), ("TVAE", TVAE)):
        start = time.perf_counter()
        torch.manual_seed(0)
        fitted = model(cuda=False) if name == "TVAE" else model(cuda=False, pac=1)
        fitted.fit(train)
        seconds = time.perf_counter() - start
        found.append((name, percent_told(rows, fitted.sample(len(rows))), seconds))
    return found


PARTS = {"training": training, "graph": graph, "tables": tables}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--root", default="data", help="folder that holds MNIST/raw")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--precisions", nargs="+", default=["32-true", "bf16-mixed"], help="of ours; theirs is float32")
    parser.add_argument("--threads", type=int, help="of torch and TensorFlow; default: torch's choice")
    parser.add_argument("--rounds", type=int, default=5, help="segments of each side")
    parser.add_argument("--seconds", type=float, default=5.0, help="length of a segment")
    options = parser.parse_args()
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    if options.threads:
        torch.set_num_threads(options.threads)
    with TemporaryDirectory() as folder:
        os.environ.setdefault("TQDM_DISABLE", "1")
        options.root = str(Path(options.root).resolve())
        os.chdir(folder)
        for part in options.parts:
            PARTS[part](options)
            print()


if __name__ == "__main__":
    main()
