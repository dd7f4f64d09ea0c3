"""`twinbrain init`: a fresh twin from a pretrained VLM, or from a checkpoint's brains."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from twinbrain_ros.commands.common import OK, CommandError, add_json, positive_int, seed_int, write_json
from twinbrain_ros.commands.info import describe_config, rows
from twinbrain_ros.evaluation.results import format_rows

if TYPE_CHECKING:
    from twinbrain_ros.brain.config import TwinBrainConfig
    from twinbrain_ros.brain.recipes import Recipe
    from twinbrain_ros.robot.robot_file import RobotFile

RECIPE_NAMES = ("paper_simplerenv", "paper_robocasa", "paper_libero", "paper_real", "published")
VLM_OPTIONS = ("recipe", "state", "conditioning", "queries", "expert", "interaction_interval")


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "init",
        help="build a twin from a pretrained VLM, or from another twin's brains",
        description="Build a twin from a pretrained Qwen3-VL or Qwen2.5-VL: left and right brain from the "
        "same weights, state encoder and action expert fresh. Or from the brains of a checkpoint, for "
        "another robot, other cameras or more words. It acts only after it is trained.",
    )
    brains = parser.add_mutually_exclusive_group(required=True)
    brains.add_argument("--vlm", metavar="PATH_OR_HUB_ID", help="folder of the VLM, or its id on the hub")
    brains.add_argument(
        "--brains", metavar="CHECKPOINT", help="a checkpoint whose brains stay; demo: the shipped one"
    )
    parser.add_argument(
        "--pixels",
        type=_size,
        metavar="WxH",
        help="with --brains: how large they see the cameras (default: as before)",
    )
    parser.add_argument(
        "--crop",
        type=_shares,
        metavar="L,T,R,B",
        help="with --brains: the part of the first camera's image that they see, its left, top, right and "
        "bottom edge as shares of the image's sides (default: all of it)",
    )
    parser.add_argument(
        "--words", metavar="TEXT", default="", help="with --brains: words to be known, if they are not yet"
    )
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="directory of the checkpoint to write"
    )
    parser.add_argument(
        "--robot",
        default="wx250s",
        metavar="NAME",
        help="name of a shipped robot file, or a path to one (default: %(default)s)",
    )
    parser.add_argument(
        "--camera",
        action="append",
        metavar="NAME",
        help="a camera of the robot; once per view, in order (default: all)",
    )
    parser.add_argument(
        "--recipe",
        choices=sorted(RECIPE_NAMES),
        metavar="NAME",
        help="with --vlm: everything about it at once, as the paper has it for one of its benchmarks or for "
        f"real arms, or as the published code has it: one of {', '.join(RECIPE_NAMES)}",
    )
    parser.add_argument(
        "--state",
        choices=("right", "expert", "none"),
        help="who takes the robot's state: the right brain as a token, as the paper says; the action expert, "
        "as the published code has it; none, as in the paper's simulator runs (default: right with "
        "hidden_states, expert with action_queries, or the recipe's)",
    )
    parser.add_argument(
        "--conditioning",
        choices=("hidden_states", "action_queries"),
        help="what the expert attends to: all states of the right brain, as the paper says, or those of "
        "query tokens, as the published code does (default: hidden_states, or the recipe's)",
    )
    parser.add_argument(
        "--queries", type=positive_int, metavar="K", help="query tokens (default: 8, with action_queries)"
    )
    parser.add_argument(
        "--expert",
        choices=("dit_b", "dit_l", "small"),
        help="size of the action expert; dit_b and dit_l are those of the paper, small is the demo's "
        "(default: dit_b)",
    )
    parser.add_argument(
        "--interaction-interval",
        type=seed_int,
        metavar="K",
        help="layers between two joint ones (default: 0, every layer is joint)",
    )
    parser.add_argument(
        "--seed",
        type=seed_int,
        default=0,
        metavar="N",
        help="seed of the fresh weights (default: %(default)s)",
    )
    add_json(parser)
    return parser


def run(args: argparse.Namespace) -> int:
    from twinbrain_ros.brain.config import ActionConfig, CheckpointError
    from twinbrain_ros.brain.initial import initialize, with_vocabulary
    from twinbrain_ros.brain.presets import twin_config
    from twinbrain_ros.brain.pretrained import load_base
    from twinbrain_ros.brain.recipes import follow
    from twinbrain_ros.resources import robot_file_path
    from twinbrain_ros.robot.robot_file import load_robot

    robot = load_robot(robot_file_path(args.robot))
    known = [camera.name for camera in robot.cameras]
    unknown = [name for name in args.camera or () if name not in known]
    if unknown:
        raise CheckpointError(f"--camera: found {unknown}, robot {robot.name!r} has {known}")
    if args.brains is not None:
        return _transfer(args, robot)
    if args.pixels or args.crop or args.words:
        raise CommandError("--pixels, --crop, --words: found with --vlm, expected with --brains")
    recipe, state = _recipe(args, bool(robot.observation.state_names))
    base = load_base(args.vlm)
    config = twin_config(
        base.vlm,
        robot.name,
        tuple(args.camera or known),
        robot.observation.state_names,
        ActionConfig.of(robot.action),
    )
    config = follow(with_vocabulary(config, base), base, recipe, state)
    initialize(args.vlm, base, config, args.out, args.seed)
    return _tell(args, config)


def _recipe(args: argparse.Namespace, has_state: bool) -> tuple[Recipe, str]:
    """The recipe that the options name or make up, and who takes the state.

    Raises:
        CommandError: an option contradicts the recipe, or another option.
    """
    from twinbrain_ros.brain.recipes import RECIPES, Recipe

    given = {
        "conditioning": args.conditioning,
        "queries": args.queries,
        "expert": args.expert,
        "interaction_interval": args.interaction_interval,
    }
    given = {key: value for key, value in given.items() if value is not None}
    if args.recipe is None:
        asks = args.conditioning == "action_queries"
        if args.queries is not None and not asks:
            raise CommandError(f"--queries: found {args.queries}, expected --conditioning action_queries too")
        usual = "expert" if asks else "right"
        recipe = Recipe(**{"queries": 8 if asks else 0} | given)
        return recipe, args.state or (usual if has_state else "none")
    recipe = RECIPES[args.recipe]
    for key, value in given.items():
        theirs = getattr(recipe, key)
        if value != theirs:
            option = key.replace("_", "-")
            raise CommandError(f"--{option}: found {value}, --recipe {args.recipe} has {theirs}")
    if args.state is not None and args.state not in recipe.states:
        theirs = " or ".join(recipe.states)
        raise CommandError(f"--state: found {args.state}, --recipe {args.recipe} has {theirs}")
    return recipe, args.state or recipe.states[0]


def _transfer(args: argparse.Namespace, robot: RobotFile) -> int:
    from twinbrain_ros.brain.transfer import transfer
    from twinbrain_ros.resources import train_start

    given = [name for name in VLM_OPTIONS if getattr(args, name) is not None]
    if given:
        options = ", ".join("--" + name.replace("_", "-") for name in given)
        raise CommandError(f"{options}: found with --brains, expected with --vlm")
    cameras = args.camera or [camera.name for camera in robot.cameras]
    words = args.words.split()
    changes = {"pixels": args.pixels, "crop": args.crop, "words": words, "seed": args.seed}
    return _tell(args, transfer(train_start(args.brains), robot, cameras, args.out, **changes))


def _tell(args: argparse.Namespace, config: TwinBrainConfig) -> int:
    facts = {"checkpoint": str(args.out), **describe_config(config)}
    print(format_rows(rows(facts)))
    write_json(args.json, facts)
    return OK


def _size(text: str) -> tuple[int, int]:
    width, _, height = text.partition("x")
    return positive_int(width), positive_int(height)


def _shares(text: str) -> tuple[float, ...]:
    return tuple(float(part) for part in text.split(","))
