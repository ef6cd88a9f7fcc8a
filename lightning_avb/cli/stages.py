"""What `--help` says first of LightningCLI's commands: what most runs set, with examples."""

STAGES = {
    "fit": "Trains a model.",
    "validate": "Computes the figures of a checkpoint on the validation data.",
    "test": "Computes the figures of a checkpoint on the test data, with a table of estimates of log p(x).",
    "predict": "Writes the codes of test data into a file beside the checkpoint.",
}

_CONFIG = """\
  --config NAME_OR_FILE           a configuration: digits/avb_si, or a file of yours; a second one is laid over the
                                  first. `lightning-avb configs` lists those that come with the package
"""
_CHOICES = """\
  --model CLASS                   the model: AVB, VAE, or a class path of yours
  --model.KEY VALUE               an option of it: --model.latent_dim 8; --model.help CLASS lists them
  --data CLASS                    the data: MNIST, ImageFolder, or a class path of yours
  --data.KEY VALUE                an option of it: --data.batch_size 100; --data.help CLASS lists them
"""
_MACHINE = """\
  --trainer.accelerator NAME      cpu, gpu; by itself a GPU where there is one
  --trainer.devices N             how many processes, one per GPU
"""
_CHECKPOINT = """\
  --ckpt_path FILE_OR_FOLDER      the checkpoint, or the folder of its run
"""

_FIT = f"""\
Trains a model, and leaves its checkpoints, metrics and pictures in runs/DATA/MODEL/version_N.

What most runs set:
{_CONFIG}{_CHOICES}\
  --trainer.max_steps N           how many batches; or --trainer.max_epochs N
{_MACHINE}\
  --trainer.precision NAME        32-true, bf16-mixed, 16-mixed
  --trainer.default_root_dir DIR  where the folders of runs are, runs if not given
  --seed_everything N             the seed of weights, order and noise
  --ckpt_path FILE_OR_FOLDER      goes on from a checkpoint, or the folder of a run
  --print_config                  prints the configuration that results, and does nothing

Examples:
  lightning-avb fit --config digits/avb_si
  lightning-avb fit --config digits/avb_si --trainer.max_steps 500 --model.latent_dim 8 --seed_everything 1
  lightning-avb fit --config digits/avb_si --config trainer/best
  lightning-avb fit --config mnist/vae --config trainer/bf16 --data.root ~/data --trainer.devices 2
  lightning-avb fit --config own_table/vae --data.path table.csv
  lightning-avb fit --config digits/avb_si --ckpt_path runs/digits/avb_si/version_0 --trainer.max_steps 6000

All options:"""

_OF_A_CHECKPOINT = f"""\

What most runs set:
{_CONFIG}{_CHECKPOINT}{_MACHINE}"""

DESCRIPTIONS = {
    "fit": _FIT,
    "validate": f"""\
{STAGES["validate"]}
{_OF_A_CHECKPOINT}
Example:
  lightning-avb validate --config digits/avb_si --ckpt_path runs/digits/avb_si/version_0

All options:""",
    "test": f"""\
{STAGES["test"]}
{_OF_A_CHECKPOINT}\
  --likelihood.estimators LIST    which estimates: all that the model allows if not given
  --likelihood.rows N             of how many rows

Example:
  lightning-avb test --config digits/avb_si --ckpt_path runs/digits/avb_si/version_0

All options:""",
    "predict": f"""\
{STAGES["predict"]}
{_OF_A_CHECKPOINT}
Example:
  lightning-avb predict --config digits/avb_si --ckpt_path runs/digits/avb_si/version_0

All options:""",
}
