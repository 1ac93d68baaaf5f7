"""Commands about promotion certificates: showing one, and verifying one with nothing but a public key."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from understudy.commands.instants import shown
from understudy.errors import BadParameter, NoSuchId, RecordUnreadable, SettingMissing
from understudy.terminal import AsJson, err, errors, out

__all__ = ["certificate_app"]

certificate_app = typer.Typer(
    no_args_is_help=True, help="What a promotion rests on, signed and verifiable offline."
)


@certificate_app.command("show")
def certificate_show(
    run_id: Annotated[str, typer.Argument(metavar="RUN", help="The promoted run.")],
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the very file, for `certificate verify`.")
    ] = False,
) -> None:
    """Show the certificate of a promoted run."""
    from understudy.record import certificate
    from understudy.session import session
    from understudy.store import certificates, runs

    with errors(as_json):
        with session().store.read() as connection:
            found = certificates.find(connection, run_id)
            if found is None:
                state = runs.get(connection, run_id).state
                raise NoSuchId(
                    f"Run {run_id} is {state} and has no certificate. One is issued when a run is promoted."
                )
        if as_json:
            sys.stdout.write(found.text)
            return
        content = certificate.read(found.text)
    _show(content, found.digest)


def _show(content: Mapping[str, Any], digest: str) -> None:
    parts, signature = content["parts"], content["signature"]
    told = parts["promotion"]
    out.print(
        f"Version {told['version']} of {told['model']} was promoted over {told['before']} at {shown(told['promoted_at'])} by run "
        f"{told['run_id']}.",
        markup=False, highlight=False, soft_wrap=True,
    )  # fmt: skip
    facts = {
        "spec": parts["spec"]["digest"],
        "files": parts["files"]["promoted"],
        "entry of the ledger": f"{parts['ledger']['head']['seq']}:{parts['ledger']['head']['digest']}",
        "approvals": str(len(parts["approvals"])),
        "signed by": signature["public_key"] if signature else "nobody",
        "digest": digest,
    }
    for name, value in facts.items():
        out.print(f"{name}: {value}", markup=False, highlight=False, soft_wrap=True)
    table = Table("step", "outcome", "at", "digest", "moments")
    for item in parts["verdicts"]:
        moments = item["moments"]
        table.add_row(
            item["step"], item["outcome"], shown(item["at"]), item["digest"][:12],
            "-" if moments is None else f"{moments['upto']}: {str(moments['stored'])[:12]}",
        )  # fmt: skip
    out.print(table)


@certificate_app.command("verify")
def certificate_verify(
    file: Annotated[Path, typer.Argument(help="The certificate.")],
    key: Annotated[
        str | None, typer.Option(help="Public key of the signer: PEM, base64, or a file with either.")
    ] = None,
    allow_unsigned: Annotated[
        bool,
        typer.Option(
            "--allow-unsigned", help="Accept one that nobody signed: anybody could have written it."
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Check a certificate without store and network, and name whatever was changed."""
    from understudy.record import certificate, signing

    with errors(as_json):
        text = _text(file)
        signed = certificate.read(text)["signature"] is not None
        if key is None and (signed or not allow_unsigned):
            raise BadParameter(
                "It is signed, and without the signer's public key that says nothing: give --key."
                if signed
                else "It is not signed, so anybody could have written it. If that is good enough, say --allow-unsigned."
            )
        problems = certificate.verify(text, None if key is None else signing.public_key(key))
    if as_json:
        told = [dict(problem.__dict__) for problem in problems]
        print(json.dumps({"valid": not problems, "signed": signed, "problems": told}))
    for problem in [] if as_json else problems:
        err.print(f"{problem.what}: {problem.sentence}", style="red", markup=False, soft_wrap=True)
    if problems:
        raise typer.Exit(1)
    if not as_json:
        by = "signed by the given key" if signed else "signed by nobody"
        out.print(f"The certificate is what was issued, {by}.")


@certificate_app.command("key")
def certificate_key(as_json: AsJson = False) -> None:
    """Print the public key that belongs to UNDERSTUDY_SIGNING_KEY, for whoever verifies."""
    from understudy.record import signing
    from understudy.settings import Settings

    with errors(as_json):
        private = signing.private_key(Settings.from_env().signing_key)
        if private is None:
            raise SettingMissing(
                "UNDERSTUDY_SIGNING_KEY is not set, so certificates are unsigned. Set it to an Ed25519 private key, as PEM or as "
                "the base64 of its 32 bytes; `openssl genpkey -algorithm ed25519` makes one."
            )
        public = signing.shown(private.public_key())
    print(json.dumps({"public_key": public}) if as_json else public)


def _text(path: Path) -> str:
    try:
        # Not as text, which would make one letter of two kinds of line ends.
        return path.read_bytes().decode()
    except (OSError, UnicodeDecodeError) as error:
        raise RecordUnreadable(
            f"{path} cannot be read ({error}). Give the file `certificate.json` of a promoted run."
        ) from error
