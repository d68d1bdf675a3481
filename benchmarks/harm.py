"""When memorised noise begins to do harm: after each epoch on MovieLens-1M, what a constant in its place would bring.

python -m benchmarks.harm LOG [--epochs 4] [--batch-size 1024] [--seed 0]

LOG is the file that `python -m benchmarks.datasets movielens_1m` writes; fields, split and network are those of movielens.yaml.
A training keeps the network of its best epoch; here each epoch's own is looked at, on the gate slice.
"""

import argparse
import tempfile
from pathlib import Path

from benchmarks.selection import RECIPES
from slimrec.config import TrainConfig, read_recipe
from slimrec.data.dataset import Dataset, Split
from slimrec.model import Model, build, with_gate
from slimrec.pruning.findings import find, twins_of
from slimrec.stages import ingest
from slimrec.track import Tracker
from slimrec.training.loop import Trainer

NOISE = "noise"


def look(model: Model, gate: Split, trainer: Trainer) -> None:
    """Print what the network of this epoch shows."""
    found = find(model.eval(), gate, trainer.config.seed, trainer.device, twins_of(gate, trainer.config.seed))
    constant, shuffled, epoch = found.removed[NOISE], found.importance[NOISE], trainer.history[-1]
    print(
        f"epoch {len(trainer.history)}: validation AUC {epoch['valid_auc']:.4f}; {NOISE} by its mean "
        f"{constant.mean:+.5f} ± {constant.error:.5f} nats{' (harm)' if constant.gain else ''}, "
        f"shuffled {shuffled.mean:+.5f} ± {shuffled.error:.5f}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("log", type=Path)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--batch-size", type=int, default=1024)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    recipe = read_recipe(RECIPES / "movielens.yaml")
    with tempfile.TemporaryDirectory() as folder:
        dataset = Path(folder, "dataset")
        ingest.run(recipe.ingest.model_copy(update={"source": str(given.log)}), Tracker(), dataset=dataset)
        data = Dataset.open(dataset)
        model = with_gate(build(data.schema, recipe.pretrain.model, given.seed), "leap", {}, given.seed)
        told = {"epochs": given.epochs, "batch_size": given.batch_size, "patience": 0, "seed": given.seed}
        config = TrainConfig(**{**recipe.pretrain.train.model_dump(), **told})
        gate = data.split("gate")

        def log(values: dict[str, float], step: int) -> None:
            if "valid_auc" in values:
                look(model, gate, trainer)

        trainer = Trainer(model, config, train=data.split("train"), valid=data.split("valid"), gate=gate, log=log)
        trainer.fit()


if __name__ == "__main__":
    main()
