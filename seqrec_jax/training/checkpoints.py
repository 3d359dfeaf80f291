"""Checkpoints of a run, written and read by Orbax; the only file that imports it.

A checkpoint holds three items: `params` (evaluated and served), `training` (everything else that the next step needs)
and `progress` (JSON: schema version, validations, early stopping). Writing is asynchronous; the best checkpoint by the
validation metric and the last one are kept.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from jax.sharding import Mesh
from orbax.checkpoint import checkpoint_managers

from seqrec_jax.errors import CheckpointError
from seqrec_jax.model import SequenceModel
from seqrec_jax.parallel import is_item_rows, make_mesh, state_sharding
from seqrec_jax.training.state import TrainState, evaluated_params

SCHEMA_VERSION = 1
_SCORE = "score"


class CheckpointStore:
    """The checkpoints under one directory."""

    def __init__(self, directory: str | Path, *, read_only: bool = False):
        """Open a directory of checkpoints, which is made if absent.

        Args:
          directory: usually `runs/<name>/checkpoints`.
          read_only: require the directory, and leave half-written checkpoints of a killed run in place.

        Raises:
          CheckpointError: the directory cannot be made, is a file or, read-only, does not exist.
        """
        self.directory = Path(directory).absolute()
        if read_only and not self.directory.is_dir():
            raise CheckpointError(f"{directory} does not exist: nothing was trained there, or the path is wrong")
        if self.directory.exists() and not self.directory.is_dir():
            raise CheckpointError(f"cannot use {directory} for checkpoints: it is a file")
        policies = checkpoint_managers.preservation_policy
        options = ocp.CheckpointManagerOptions(
            create=not read_only,
            read_only=read_only,
            save_interval_steps=0 if read_only else 1,
            cleanup_tmp_directories=not read_only,
            preservation_policy=policies.AnyPreservationPolicy(
                [
                    policies.LatestN(1),
                    policies.BestN(
                        get_metric_fn=lambda metrics: metrics[_SCORE],
                        n=1,
                        keep_checkpoints_without_metrics=False,
                    ),
                ]
            ),
            best_fn=lambda metrics: metrics[_SCORE],
            best_mode="max",
        )
        handlers = {
            "params": ocp.StandardCheckpointHandler(),
            "training": ocp.StandardCheckpointHandler(),
            "progress": ocp.JsonCheckpointHandler(),
        }
        try:
            with _errors_only():
                self._manager = ocp.CheckpointManager(self.directory, options=options, item_handlers=handlers)
        except OSError as error:
            raise CheckpointError(f"cannot use {directory} for checkpoints: {error.strerror or error}") from error

    @property
    def last_step(self) -> int | None:
        """Step of the last complete checkpoint; None if there is none."""
        step: int | None = self._manager.latest_step()
        return step

    @property
    def best_step(self) -> int | None:
        """Step of the best validated checkpoint, the later one among equals; the last step if none was validated."""
        best = self._manager.best_step()
        return self.last_step if best is None else best

    def save(self, state: TrainState, progress: dict[str, Any], *, score: float | None = None) -> None:
        """Start writing a checkpoint of `state`; a checkpoint of the same step is left as it is.

        Args:
          state: parameters, optimizer state and average after `state.step` updates.
          progress: JSON values that training continues from.
          score: the validation metric, higher is better; None if this step was not validated.

        Raises:
          CheckpointError: the disk is full or read-only; the checkpoints before are untouched.
        """
        step = int(state.step)
        if step in self._manager.all_steps():
            return
        items = ocp.args.Composite(
            params=ocp.args.StandardSave(evaluated_params(state)),
            training=ocp.args.StandardSave(_training_tree(state)),
            progress=ocp.args.JsonSave({"schema_version": SCHEMA_VERSION, **progress}),
        )
        try:
            with _errors_only():
                self._manager.save(step, args=items, metrics=None if score is None else {_SCORE: score})
        except (OSError, ValueError) as error:
            raise self._cannot_write(error) from error

    def wait(self) -> None:
        """Wait until every checkpoint that `save` started is on disk.

        Raises:
          CheckpointError: writing failed.
        """
        try:
            self._manager.wait_until_finished()
        except (OSError, ValueError) as error:
            raise self._cannot_write(error) from error

    def restore(self, like: TrainState, *, mesh: Mesh) -> tuple[TrainState, dict[str, Any]]:
        """The state and progress of the last checkpoint, whichever mesh wrote it.

        Args:
          like: a state, or its shapes and dtypes, with the expected structure; tables of items may have more or fewer
            rows beyond the items than when they were saved.
          mesh: devices of the restored arrays, see `state_sharding`.

        Returns:
          The state, and the JSON values that were saved with it.

        Raises:
          CheckpointError: no checkpoint, or one of another model, optimizer or schema version.
        """
        step = self._require(self.last_step)
        progress = self.progress(step)
        placed = _placed(like, mesh)
        restored = self._restore(
            step,
            num_items=progress.get("num_items"),
            params=ocp.args.StandardRestore(evaluated_params(placed), strict=False),
            training=ocp.args.StandardRestore(_training_tree(placed), strict=False),
        )
        training, params = restored["training"], restored["params"]
        if like.average:
            state = TrainState(training["params"], training["optimizer"], params, training["step"])
        else:
            state = TrainState(params, training["optimizer"], {}, training["step"])
        return state, progress

    def restore_params(self, like: Any, *, step: int | None = None, mesh: Mesh) -> tuple[Any, int]:
        """The evaluated parameters of a checkpoint, and its step.

        Args:
          like: parameters, or their shapes and dtypes, with the expected structure.
          step: the checkpoint's step; None for the best one.
          mesh: devices of the restored arrays, see `state_sharding`.

        Raises:
          CheckpointError: no such checkpoint, or one of another model.
        """
        step = self._require(self.best_step if step is None else step)
        num_items = self.progress(step).get("num_items")
        params = ocp.args.StandardRestore(_placed(like, mesh), strict=False)
        return self._restore(step, num_items=num_items, params=params)["params"], step

    def progress(self, step: int) -> dict[str, Any]:
        """The JSON values that were saved as progress with a step.

        Raises:
          CheckpointError: a checkpoint of another schema version.
        """
        progress = dict(self._restore(step, progress=ocp.args.JsonRestore())["progress"])
        version = progress.pop("schema_version", None)
        if version != SCHEMA_VERSION:
            raise CheckpointError(
                f"{self.directory} has checkpoint schema version {version}, this release reads {SCHEMA_VERSION}; "
                "use the release that wrote it, or train again"
            )
        return progress

    def close(self) -> None:
        """Wait until everything is written and release the directory.

        Raises:
          CheckpointError: writing failed.
        """
        try:
            self.wait()
        finally:
            self._manager.close()

    def __enter__(self) -> CheckpointStore:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        """Close the store, but without waiting where another process was lost, which would never join in."""
        if jax.process_count() == 1 or not isinstance(error, jax.errors.JaxRuntimeError):
            self.close()

    def _require(self, step: int | None) -> int:
        steps = self._manager.all_steps()
        if step is None or step not in steps:
            if not steps:
                raise CheckpointError(
                    f"{self.directory} has no whole checkpoint; the run was stopped before its first one was "
                    "complete, or the path is wrong; train again"
                )
            raise CheckpointError(
                f"{self.directory} has no checkpoint of step {step}; there are those of steps {sorted(steps)}"
            )
        return step

    def _restore(self, step: int, *, num_items: int | None = None, **items: Any) -> Any:
        # checked beforehand, since Orbax would stop in the middle of reading and name no parameter, or would crop and
        # pad arrays of another shape, which is right for rows beyond the items only
        reason = self._misfit(step, items["params"].item, num_items) if "params" in items else ""
        cause: Exception | None = None
        if not reason:
            try:
                return self._manager.restore(step, args=ocp.args.Composite(**items))
            except (OSError, ValueError, KeyError, TypeError) as error:
                reason, cause = _short(error), error
        raise CheckpointError(
            f"checkpoint {step} in {self.directory} does not fit this model, or is damaged: {reason}"
        ) from cause

    def _misfit(self, step: int, expected: Any, num_items: int | None) -> str:
        """The parameters whose shapes differ from those expected, in words; empty if none does."""
        try:
            there = _shapes(self._manager.item_metadata(step)["params"].tree, num_items)
        except (OSError, ValueError, KeyError, AttributeError) as error:
            return _short(error)
        here = _shapes(expected, num_items)
        names = [name for name in sorted({**there, **here}) if there.get(name) != here.get(name)]
        texts = [f"{name} is {there.get(name, 'absent')} there, {here.get(name, 'absent')} here" for name in names]
        return "; ".join(texts[:5]) + (f"; and {len(texts) - 5} more" if len(texts) > 5 else "")

    def _cannot_write(self, error: Exception) -> CheckpointError:
        reason = _short(error) + (" (another process may have been lost)" if jax.process_count() > 1 else "")
        if "No space left on device" in str(error):
            reason = "the disk is full"
        return CheckpointError(
            f"cannot write a checkpoint to {self.directory}: {reason}; the "
            "checkpoints before are untouched, and the same command continues from the last one"
        )


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:400]


def _placed(like: Any, mesh: Mesh) -> Any:
    """Shapes and dtypes with their shardings."""

    def placed(leaf: Any, place: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place)

    return jax.tree.map(placed, like, state_sharding(like, mesh))


def _shapes(tree: Any, num_items: int | None) -> dict[str, tuple[int, ...]]:
    """Shapes by dotted name; tables of items are counted up to the last item."""

    def shape(path: tuple[Any, ...], leaf: Any) -> tuple[int, ...]:
        if num_items is None or not is_item_rows(path):
            return tuple(leaf.shape)
        return (min(leaf.shape[0], num_items + 1), *leaf.shape[1:])

    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="."): shape(path, leaf) for path, leaf in leaves}


def load_params(model: SequenceModel, run: str | Path, *, step: int | None = None) -> tuple[Any, int]:
    """The evaluated parameters of a run's checkpoint on one device, and its step.

    Args:
      model: the model whose parameters are read.
      run: the run's directory.
      step: the checkpoint's step; None for the best one.

    Raises:
      CheckpointError: no whole checkpoint there, or one of another model or schema version.
    """
    with closing(CheckpointStore(Path(run) / "checkpoints", read_only=True)) as store:
        like = jax.eval_shape(model.init, jax.random.key(0))
        return store.restore_params(like, step=step, mesh=make_mesh(1))


@contextmanager
def _errors_only() -> Iterator[None]:
    """Without the warnings that Orbax logs for a directory opened for reading, and for a checkpoint without a score."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _training_tree(state: TrainState) -> dict[str, Any]:
    """Everything but the evaluated parameters; the trained parameters too if an average is evaluated."""
    tree = {"optimizer": state.optimizer, "step": state.step}
    return {**tree, "params": state.params} if state.average else tree
