"""The steps that recipes are made of, by name."""

from understudy.rollback.steps import consumers, exposure, probe, registry, serving, suites
from understudy.rollback.steps.step import Found, Step, Work

__all__ = ["STEPS", "Found", "Step", "Work"]

STEPS: dict[str, Step] = {
    step.name: step
    for step in (
        exposure.STEP,
        registry.STEP,
        suites.STEP,
        serving.SERVING,
        serving.GATEWAYS,
        probe.STEP,
        consumers.STEP,
    )
}
