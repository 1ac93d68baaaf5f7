"""Every error a user can meet: one class per cause, each with a stable code.

A message says what happened, the value, the rule and the fix, in that order, so that it can be acted on without
reading the code. The classes carry no behaviour beyond that.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

__all__ = [
    "ArtifactUnloadable",
    "AuditFailed",
    "BackupInvalid",
    "BadParameter",
    "BadUpstream",
    "ConcurrentRun",
    "DataMissing",
    "DrillFailed",
    "EventsBusy",
    "EventsUnreadable",
    "FeatureSetMismatch",
    "FilesChanged",
    "FlagDocumentError",
    "GatewayMismatch",
    "LedgerBroken",
    "NoPreviousVersion",
    "NoSuchExperiment",
    "NoSuchId",
    "NoSuchRun",
    "NoSuchVersion",
    "NoWayBack",
    "NotDrilled",
    "OutcomesInvalid",
    "RecordUnreadable",
    "RestorationUnproven",
    "RollbackUnfinished",
    "SettingMissing",
    "SignatureRefused",
    "SnapshotBroken",
    "SpecInvalid",
    "StaleGeneration",
    "StepNotPassed",
    "StoreError",
    "StoreNotEmpty",
    "SuiteInvalid",
    "UnderstudyError",
    "Unreachable",
    "VersionIncompatible",
]


class UnderstudyError(Exception):
    """Base of every error that Understudy raises on purpose.

    Args:
        message: What happened, the offending value, the rule and the fix.
    """

    code = "UNDERSTUDY"
    runbook = ""
    """Page for whoever meets it at night, where there is one."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message

    def __str__(self) -> str:
        return f"[{self.code}] {self.message}"

    def to_dict(self) -> dict[str, str]:
        """Return the error as data, for JSON answers."""
        told = {"code": self.code, "message": self.message}
        return told | {"runbook": self.runbook} if self.runbook else told


class SettingMissing(UnderstudyError):
    """An environment variable that has no safe default is not set or not usable."""

    code = "SETTING_MISSING"


class SignatureRefused(UnderstudyError):
    """A request of the webhook is not signed with the shared secret, or was signed too long ago."""

    code = "SIGNATURE_REFUSED"


class SpecInvalid(UnderstudyError):
    """An experiment file breaks a rule of the spec."""

    code = "SPEC_INVALID"


class NoSuchExperiment(UnderstudyError):
    """The named experiment has no file in the experiments folder."""

    code = "NO_SUCH_EXPERIMENT"


class BadParameter(UnderstudyError):
    """A start parameter is unknown or has a value that cannot be used."""

    code = "BAD_PARAMETER"


class NoSuchRun(UnderstudyError):
    """The store knows no run of that id."""

    code = "NO_SUCH_RUN"


class NoSuchId(UnderstudyError):
    """Nothing bears this id: no request, event, trace or run."""

    code = "NO_SUCH_ID"


class NoSuchVersion(UnderstudyError):
    """The registry has no such version or alias."""

    code = "NO_SUCH_VERSION"


class VersionIncompatible(UnderstudyError):
    """The challenger cannot take the champion's place: signature, inputs or output differ."""

    code = "VERSION_INCOMPATIBLE"


class ArtifactUnloadable(UnderstudyError):
    """The version's files cannot be loaded as a model."""

    code = "ARTIFACT_UNLOADABLE"


class FilesChanged(UnderstudyError):
    """The files of a registered version are not those that were recorded for it, so nothing of them may run."""

    code = "FILES_CHANGED"
    runbook = "docs/runbooks/files-changed.md"


class FeatureSetMismatch(UnderstudyError):
    """A version needs other features than the feature set that it names, or that set is not registered."""

    code = "FEATURE_SET_MISMATCH"
    runbook = "docs/runbooks/feature-set-mismatch.md"


class BadUpstream(UnderstudyError):
    """A version is to be served by a server of its own, but its address or the token for it cannot be used."""

    code = "BAD_UPSTREAM"


class ConcurrentRun(UnderstudyError):
    """Another run holds the model's lock."""

    code = "CONCURRENT_RUN"


class StaleGeneration(UnderstudyError):
    """A writer tried to change exposure with a generation that is no longer the newest."""

    code = "STALE_GENERATION"


class FlagDocumentError(UnderstudyError):
    """The published flag document is torn, missing or not of the expected shape."""

    code = "FLAG_DOCUMENT"
    runbook = "docs/runbooks/flag-document-unusable.md"


class SuiteInvalid(UnderstudyError):
    """An expectation suite is missing, empty or names an unknown expectation."""

    code = "SUITE_INVALID"


class DataMissing(UnderstudyError):
    """A dataset or window that a step needs is missing or empty."""

    code = "DATA_MISSING"


class EventsBusy(UnderstudyError):
    """Another process is compacting, importing or removing events of the model."""

    code = "EVENTS_BUSY"


class EventsUnreadable(UnderstudyError):
    """A part of the event log that must be there cannot be read."""

    code = "EVENTS_UNREADABLE"


class OutcomesInvalid(UnderstudyError):
    """A file or table of outcomes breaks a rule, and nothing of it was imported.

    Args:
        message: What is wrong.
        problems: The first rows that break a rule: their place, the column and the rule; never a value.
    """

    code = "OUTCOMES_INVALID"

    def __init__(self, message: str, problems: Sequence[dict[str, Any]] = ()) -> None:
        super().__init__(message)
        self.problems = tuple(problems)


class Unreachable(UnderstudyError):
    """A server does not answer. The only kind of error that is worth another try."""

    code = "UNREACHABLE"


class GatewayMismatch(UnderstudyError):
    """A gateway does not serve what was published."""

    code = "GATEWAY_MISMATCH"
    runbook = "docs/runbooks/gateways-disagree.md"


class NoPreviousVersion(UnderstudyError):
    """There is no earlier registered version to go back to."""

    code = "NO_PREVIOUS_VERSION"
    runbook = "docs/runbooks/roll-back-now.md"


class NoWayBack(UnderstudyError):
    """A run has no rollback point, or nobody can prove that it still leads anywhere, so nobody may be exposed."""

    code = "NO_WAY_BACK"
    runbook = "docs/runbooks/no-way-back.md"


class NotDrilled(UnderstudyError):
    """The way back was not practised lately, and the spec demands it before many units are exposed."""

    code = "NOT_DRILLED"
    runbook = "docs/runbooks/not-drilled.md"


class AuditFailed(UnderstudyError):
    """The audit found something that somebody must act on."""

    code = "AUDIT_FAILED"
    runbook = "docs/runbooks/the-audit-found-something.md"


class DrillFailed(UnderstudyError):
    """A planted fault was not caught, or not everything was back in time."""

    code = "DRILL_FAILED"
    runbook = "docs/runbooks/not-drilled.md"


class SnapshotBroken(UnderstudyError):
    """A part of a rollback point is missing from the snapshots, or its content is not what was kept."""

    code = "SNAPSHOT_BROKEN"
    runbook = "docs/runbooks/no-way-back.md"


class RestorationUnproven(UnderstudyError):
    """A rollback moved everything, but the version does not answer as it did when it was recorded."""

    code = "RESTORATION_UNPROVEN"
    runbook = "docs/runbooks/roll-back-now.md"


class RollbackUnfinished(UnderstudyError):
    """A rollback of the model has not ended, so nothing new may begin on it."""

    code = "ROLLBACK_UNFINISHED"
    runbook = "docs/runbooks/roll-back-now.md"


class StoreError(UnderstudyError):
    """The store is missing, read-only or of another schema version."""

    code = "STORE"


class LedgerBroken(UnderstudyError):
    """An entry of the ledger was altered, is missing or is out of place, or the end of it was cut off."""

    code = "LEDGER_BROKEN"
    runbook = "docs/runbooks/the-ledger-is-broken.md"


class RecordUnreadable(UnderstudyError):
    """A file with a part of the record is none, or was altered so that it cannot be read."""

    code = "RECORD_UNREADABLE"


class BackupInvalid(UnderstudyError):
    """A backup is torn, altered or of a newer version, so nothing of it may be put back."""

    code = "BACKUP_INVALID"


class StoreNotEmpty(UnderstudyError):
    """A backup may only be put back into an empty store, and this one holds something."""

    code = "STORE_NOT_EMPTY"


class StepNotPassed(UnderstudyError):
    """A lifecycle step ended without PASS, so the run may not go on.

    Args:
        step: Name of the step.
        verdict: The verdict as a plain dict.
    """

    code = "STEP_NOT_PASSED"

    def __init__(self, step: str, verdict: dict[str, Any]) -> None:
        super().__init__(f"{step} ended with {verdict['outcome']}: {verdict['sentence']}")
        self.step = step
        self.verdict = verdict


class NoHistory(UnderstudyError):
    """Nothing is known of the champion's past, so its policy cannot be rehearsed."""

    code = "NO_HISTORY"


class RiskCeilingMissed(UnderstudyError):
    """The rehearsed policy misses a ceiling of the spec's ``risk``, so the run may not begin."""

    code = "RISK_CEILING_MISSED"
    runbook = "docs/runbooks/the-rehearsal-refused-a-run.md"
