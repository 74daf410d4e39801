"""Judging a method on held-out cases: during training, and when a classifier is done."""

from collections.abc import Callable

from lightning_fabric import Fabric

from gleanseg.config import StageConfig
from gleanseg.engine.assess import Pairs, assess, calibrate, hidden_pairs, known_pairs, to_json
from gleanseg.engine.precision import choose
from gleanseg.engine.setup import Setup
from gleanseg.engine.validate import Validation, validate
from gleanseg.methods import method_class
from gleanseg.methods.presence import Presence
from gleanseg.networks.network import Network
from gleanseg.parts.method import Method
from gleanseg.predict.predictor import Options, Predictor
from gleanseg.run.folder import Run, write_text
from gleanseg.run.roi_aware import load_roi_aware


class Judge:
    """Scores methods on a run's validation cases.

    Args:
        setup: recipe, store and roles.
        run: what predictors need, and where conclusions are written.
        fabric: joins the ranks.
    """

    def __init__(self, setup: Setup, run: Run, fabric: Fabric) -> None:
        self.setup, self.run, self.fabric = setup, run, fabric

    def validate(self, method: Method, *, poll: Callable[[], None], between: Callable[[], None]) -> Validation:
        """Dice of the deployed networks, or AUROC of a classifier.

        Args:
            method: on its device; its mode is given back.
            poll: called between windows; may raise to stop.
            between: called by all ranks together between cases; may raise on all of them.
        """
        if isinstance(method, Presence):
            # Every rank looks at the same patches, which is quick and needs no exchange.
            found = assess(self._known(method), self.run.rois, group="known", temperature=1.0)
            return Validation({roi.roi: roi.auroc for roi in found.rois}, found.mean_auroc, "auroc")
        predictor = self.predictor(method)
        method.eval()
        try:
            data = self.setup.store, self.setup.selection
            return validate(predictor, *data, fabric=self.fabric, poll=poll, between=between)
        finally:
            method.train()

    def predictor(self, method: Method) -> Predictor:
        """The deployed networks as they stand, as the recipe predicts."""
        names = next(iter(type(method).deploys.values()))
        networks = [module for name in names if isinstance(module := method.get_submodule(name), Network)]
        recipe, device = self.setup.recipe, self.fabric.device
        assert recipe.sampling.patch != "auto", "a resolved recipe has a patch"
        return Predictor(
            networks,
            plan=self.run.plan,
            rois=self.run.rois,
            ontology=self.run.ontology,
            patch_ZYX=recipe.sampling.patch[::-1],
            overlaps=self.run.overlaps,
            config=recipe.predict,
            options=Options(backend="eager"),  # compiled networks would keep the weights of the first validation
            device=device,
            bf16=choose(recipe.train.precision, device) == "bf16-mixed",
            roi_aware=load_roi_aware(self.run).to(device) if recipe.predict.gate > 0 else None,
        )

    @staticmethod
    def concludes(stage: StageConfig) -> bool:
        """Whether anything is concluded from a stage."""
        return issubclass(method_class(stage.method)[0], Presence)

    def conclude(self, method: Method) -> list[str]:
        """Calibrate a trained classifier on held-out cases and write ``presence.json``; returns what to tell the user.

        Other methods need no conclusion.
        """
        if not isinstance(method, Presence):
            return []
        selection, rois = self.setup.selection, self.run.rois
        known = self._known(method)
        temperature = calibrate(known) if selection.validation else 1.0
        found = [assess(known, rois, group="known", temperature=temperature)]
        hidden = hidden_pairs(method, self.setup, device=self.fabric.device)
        if hidden.sure.any():
            found.append(assess(hidden, rois, group="hidden", temperature=temperature))
        if self.fabric.is_global_zero:
            write_text(self.run.path / "presence.json", to_json(found))
            self.run.update(temperature=temperature)
        if selection.validation:
            return []
        return ["no validation case: presence scores are not calibrated, and their figures are of training cases"]

    def _known(self, method: Presence) -> Pairs:
        return known_pairs(method, self.setup, device=self.fabric.device)
