"""The command ``ttsnap serve-reward``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ttsnap.errors import UserError


def serve_reward(
    rewards: Annotated[
        list[str],
        typer.Argument(
            metavar="KIND…",
            help="KIND, KIND:PATH@COMMIT or MODULE:CLASS; or the name of a reward of --config.",
        ),
    ],
    config: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="Config with rewards.")
    ] = None,
    host: Annotated[
        str,
        typer.Option(
            help="Address to listen at. One that other machines reach needs a token, in the "
            "environment variable TTSNAP_REWARD_TOKEN."
        ),
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any that is free.")] = 8011,
    device: Annotated[str, typer.Option(help="As torch names it, or auto.")] = "auto",
) -> None:
    """Serve rewards over HTTP, for the kind `http` of another process or machine.

    Example: `ttsnap serve-reward brightness`
    """
    from ttsnap.config import RewardSettings, load_config
    from ttsnap.diffusion.sources import pinned
    from ttsnap.rewards.registry import load_reward
    from ttsnap.rewards.remote.server import RewardServer, token_for
    from ttsnap.searching.request import check_reward, read_reward

    token_for(host)
    known = load_config(config).rewards if config else {}
    wanted: dict[str, RewardSettings] = {}
    for text in rewards:
        if text in known:
            name, settings = text, known[text]
        else:
            name, given = read_reward(text)
            if given.get("path") and not given.get("revision"):
                given["path"], given["revision"] = pinned(given["path"], print)
            settings = RewardSettings.model_validate(given)
        if name in wanted:
            raise UserError(f"{text}: {name} is listed twice")
        check_reward(settings, name)
        wanted[name] = settings
    loaded = {name: load_reward(one, name=name, device=device) for name, one in wanted.items()}
    kinds = {name: one.kind for name, one in wanted.items()}
    with RewardServer(loaded, kinds, host, port) as server:
        try:
            for name in loaded:
                print(server.url(name), flush=True)
            server.serve_forever()
        except KeyboardInterrupt:
            print("stopped")
