"""Several processes learn one model: each holds a part of every matrix, and takes a part of each step's sequences."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from pintpot.budget import Budget
from pintpot.contract.form import Form
from pintpot.contract.step import Facet, Step
from pintpot.errors import NotApplicable, need
from pintpot.machine.spec import Machine
from pintpot.model.spec import Model


@dataclass(frozen=True)
class FullySharded(Step):
    """Rows of a block's matrices in RAM, and of their moments, are shared out among `ranks` of torch.distributed.

    A matrix is gathered for as long as its block is computed, and its gradients are summed where their rows lie. What
    learns stays in RAM; what does not, and rests on disk, is read by each process. The vocabulary, adapters and vectors
    are held by each. Only for who starts several processes.
    """

    paper: ClassVar[str] = "PyTorch FSDP, Zhao et al. 2023, arXiv:2304.11277"
    facet: ClassVar[Facet] = Facet.PARALLEL
    ranks: int = 2

    def check(self, model: Model, form: Form) -> None:
        how = form.training
        if how is None:
            raise NotApplicable("nothing of this model is to learn")
        need(self.ranks >= 2, f"{self.ranks} processes have nothing to share out", NotApplicable)
        drawn = "directions that are drawn for whole weights are not shared out among processes; start a single one"
        need(not how.distance, drawn, NotApplicable)

    def promise(self, form: Form) -> Form:
        return form if form.training is None else replace(form, training=replace(form.training, ranks=self.ranks))

    @classmethod
    def offers(cls, model: Model, machine: Machine, budget: Budget) -> tuple[Step, ...]:
        return ()
