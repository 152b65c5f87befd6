"""What a run is: frozen specs of a training, of an evaluation and of the cell that they make together.

None can be made with a value that its field's annotation does not allow, or with fields that contradict each other.
"""

import hashlib
import json
import math
import re
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from functools import cached_property, partial
from itertools import pairwise
from types import NoneType
from typing import Annotated, Any, get_args, get_type_hints

from baselines.gmn_networks import LEAST_SIZE
from vma.addressing import SIMILARITIES
from vma.data.episodes import MOST, SHIFTS, EpisodeSpec
from vma.errors import InputError, check_name, check_number, check_whole
from vma.estimators import MOST_IN_SET
from vma.model import Z_GRADIENTS

BY_CLASS = ("per_class", "gmn", "sequence")  # protocols whose memories are made of classes
MODELS = ("vma", "soft", "vae", "gmn")
OWN_MODEL = re.compile(r"(?=.{3,100}$)([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*):([A-Za-z_]\w*)", re.ASCII)  # module, factory
CONVOLUTIONAL, MLPS = ("paper", "narrow", "small", "tiny"), ("mlp", "tiny-mlp")
NETWORKS = (*CONVOLUTIONAL, "gmn", *MLPS)
SETS, ENUMERATED = ("set-score", "set-wake"), ("all-score", "all-wake")  # by how they draw addresses
ESTIMATORS = ("geometric", "ovis0", "ovis1", "rloo", "nvil", "wake", *SETS, *ENUMERATED, "gumbel")
WITH_ONE_SAMPLE = ("nvil", "gumbel", *ENUMERATED)  # the others need two
SPLITS = ("train", "validation", "test")
DECODING_RULES = ("classification-likelihood", "classification-shifted")
ENUMERATIONS = (*DECODING_RULES, "address-divergences")  # tasks that decode every entry
ADDRESS_TASKS = ("recall", "lookup", "classification", "gradient-noise", *ENUMERATIONS)
TASKS = (*ADDRESS_TASKS, "learned", "samples", "wallclock")

NEEDLESS = ("vae", "gmn")  # models that can do without a memory

# Far beyond what is of use: a number with some digits too many is refused before it fills the memory or runs for ever.
MOST_SEED = 2**31 - 1  # what every generator takes
MOST_THREADS = 1024
MOST_UPDATES = 10**9
MOST_SAMPLES = 10**6  # of an evaluation, which decodes them in chunks; and its targets
MOST_AT_ONCE = 10**4  # samples of a target that are decoded at once, in training and where they are shown
MOST_HOPS = 100
MOST_NUMBERS = 2**26  # in a learned memory

SETTINGS = ("dtype", "threads")  # of a machine: what they change is rounding
# Fields of all specs that are part of an id whatever their value, as those of the first runs were.
HASHED = (
    *("model", "recipe", "dataset", "image_size", "network", "num_samples", "similarity", "prior", "learning_rate"),
    *("weight_decay", "warmup", "protocol", "classes", "targets_per_class", "shots", "targets", "split", "seed"),
    *SETTINGS,
)

# A field's type, and what checks its value by the field's name.
Entries = Annotated[int, partial(check_whole, least=1, most=MOST)]
Seed = Annotated[int, partial(check_whole, least=0, most=MOST_SEED)]
Threads = Annotated[int, partial(check_whole, least=1, most=MOST_THREADS)]
Updates = Annotated[int, partial(check_whole, least=1, most=MOST_UPDATES)]
Positive = Annotated[float, partial(check_number, most=1e38)]  # what float32 holds
Dtype = Annotated[str, partial(check_name, allowed=("float32", "bfloat16"))]


def _check_sizes(name: str, value: object) -> None:
    if type(value) is not tuple or not value:
        raise InputError(f"{name} is {reprlib.repr(value)}, must be one or more sizes")
    for size in value:
        check_whole(f"a size of {name}", size, 1, MOST)


def _check_rates(name: str, value: object) -> None:
    if type(value) is not tuple or any(type(step) is not tuple or len(step) != 2 for step in value):
        raise InputError(f"{name} is {reprlib.repr(value)}, must be pairs of an update and a rate")
    for update, rate in value:
        check_whole(f"an update of {name}", update, 1, MOST_UPDATES)
        check_number(f"a rate of {name}", rate, 1e38)
    if any(one >= other for (one, _), (other, _) in pairwise(value)):
        raise InputError(f"{name} is {reprlib.repr(value)}, its updates must ascend")


def _check_stages(name: str, value: object) -> None:
    if type(value) is not tuple or any(type(stage) is not tuple or len(stage) != 2 for stage in value):
        raise InputError(f"{name} is {reprlib.repr(value)}, must be pairs of a memory size and an update")
    for size, until in value:
        check_whole("memory_size", size, 1, MOST)
        check_whole(f"an update of {name}", until, 0, MOST_UPDATES)


def _check_model_name(name: str, value: object) -> None:
    if type(value) is not str or not (value in MODELS or OWN_MODEL.fullmatch(value)):
        raise InputError(
            f"{name} is {reprlib.repr(value)}, must be one of {', '.join(MODELS)}, or package.module:factory for a "
            "model of your own"
        )


def _check_start(name: str, value: object) -> None:
    if type(value) is not str or not re.fullmatch(r"[a-z0-9_-]+-[1-9][0-9]{0,8}", value):
        raise InputError(
            f"{name} is {reprlib.repr(value)}, must be the name and the updates of shipped weights, such as "
            "vma-table1-60000"
        )


@dataclass(frozen=True)
class TrainSpec:
    """One training run. The defaults are the paper's for few-shot learning on the 45/5 split (section 4.2).

    The number of updates is no part of it: a run is a stream of updates that can be stopped and taken up anywhere, and
    a row says how many were made. Only a recipe whose learning rate decays names the update at which it ends.
    """

    model: Annotated[str, _check_model_name] = "vma"  # or package.module:factory, see `benchmarks.declare.own_model`
    # of soft attention
    read: Annotated[str, partial(check_name, allowed=("images", "features"), none="images")] | None = None
    recipe: str = "paper"
    dataset: str = "omniglot45_5"
    image_size: Annotated[int, partial(check_whole, least=1, most=256)] = 26
    network: Annotated[str, partial(check_name, allowed=NETWORKS)] = "paper"
    episode: EpisodeSpec = field(default_factory=EpisodeSpec)
    num_samples: Annotated[int, partial(check_whole, least=1, most=MOST_AT_ONCE)] = 4
    similarity: Annotated[str, partial(check_name, allowed=tuple(SIMILARITIES))] = "paper"
    prior: Annotated[str, partial(check_name, allowed=("learned", "flat"))] = "learned"
    optimizer: Annotated[str, partial(check_name, allowed=("adam", "muon"))] = "adam"
    learning_rate: Positive = 3e-4
    adam_rate: Positive | None = None  # of the parameters that Muon leaves to Adam
    # L2 in the loss: adds weight_decay * w to the gradient before Adam scales it; Muon's is decoupled
    weight_decay: Annotated[float, partial(check_number, most=1e38, zero=True)] = 0.0
    warmup: Annotated[int, partial(check_whole, least=0, most=MOST_UPDATES)] = 0
    decay_updates: Updates | None = None  # at which the rate has come down to zero along a cosine
    decay_from: Updates | None = None  # until which it is constant before; None is from the first update on
    rate_steps: Annotated[tuple[tuple[int, float], ...], _check_rates] | None = None  # (from update on, rate)
    beta2: Annotated[float, partial(check_number, most=0.9999999)] = 0.999  # of Adam
    kl_warmup: Updates | None = None  # over which the weight of KL_z in the objective rises from 0 to 1
    clip: Positive | None = None
    learned_entries: Entries | None = None  # of a memory that is learned; the model then sees none in its episodes
    memory_shape: Annotated[tuple[int, ...], _check_sizes] | None = None  # of a learned entry; None is an image
    # (memory size, until update), then the episode's
    growth: Annotated[tuple[tuple[int, int], ...], _check_stages] | None = None
    episodes_per_update: Entries = 1  # an update's minibatch holds the targets of that many
    tied: bool = False  # whether the embedding networks of q(a|x) share the other networks' pyramids
    # of the gradient of q(a|x), see `benchmarks.runs.build`
    estimator: Annotated[str, partial(check_name, allowed=("vimco", *ESTIMATORS))] = "vimco"
    # of the gradient of q(z|m, x), see `vma.VariationalMemoryAddressing`
    z_gradient: Annotated[str, partial(check_name, allowed=Z_GRADIENTS)] = Z_GRADIENTS[0]
    path: Annotated[str, partial(check_name, allowed=("reference",), none="the fast one")] | None = None
    # embed all entries without gradient, those drawn and so many sampled ones with it; None is all with gradient
    gradient_entries: Entries | None = None
    # of gmn; None is what the model has by itself
    hops: Annotated[int, partial(check_whole, least=0, most=MOST_HOPS)] | None = None
    prior_hops: Annotated[int, partial(check_whole, least=0, most=MOST_HOPS)] | None = None
    strength: Annotated[str, partial(check_name, allowed=("softplus", "clipped"))] = "softplus"
    skips: bool = False
    # shipped weights that it begins from, with a new optimizer: their name and their updates
    start: Annotated[str, _check_start] | None = None
    seed: Seed = 0
    dtype: Dtype = "float32"
    threads: Threads = 2

    def __post_init__(self) -> None:
        _check_fields(self)
        self._check_model()
        self._check_gmn()
        self._check_memory()
        if self.growth:
            _check_growth(self.growth, self.episode)
        if self.decay_from is not None and not self.decay_from < (self.decay_updates or 0):
            raise InputError(
                f"decay_from is {self.decay_from}, decay_updates {self.decay_updates}: must end after it begins"
            )
        self._check_estimator()
        if self.rate_steps and self.decay_updates is not None:
            raise InputError("rate_steps are given with decay_updates: the rate comes down by one of them")
        targets = self.episode.num_targets * self.episodes_per_update
        check_whole("num_samples x targets of an update", self.num_samples * targets, 1, MOST)
        if self.estimator in ENUMERATED:
            check_whole("entries x targets of an update", self._most_entries * targets, 1, MOST)

    def _check_model(self) -> None:
        if self.model == "vma" and self.num_samples < 2 and self.estimator not in WITH_ONE_SAMPLE:
            raise InputError(
                f"num_samples is {self.num_samples}, must be 2 or more for vma: {self.estimator} needs two"
            )
        if self.model != "soft" and self.read is not None:
            raise InputError(f"read is given for {self.model}, which has no attention: leave it out")
        if self.path is not None and self.dtype != "float32":
            raise InputError(f"dtype is {self.dtype}: the reference path is float32")
        if self.path is not None and self.model != "vma":
            raise InputError(f"path is reference for {self.model}: only vma has a path of its own for reference")
        if self.gradient_entries is not None and (
            self.path is not None or not (self.model == "vma" or (self.model, self.read) == ("soft", "features"))
        ):
            raise InputError(
                f"gradient_entries is given for model {self.model}, read {self.read}, path {self.path}: it is for vma "
                "and for soft with read features, without path"
            )
        if (self.optimizer == "adam") != (self.adam_rate is None):
            raise InputError("adam_rate is given without optimizer muon, or muon without it: they go together")
        if self.model != "vma":
            self._refuse("vma", "learned_entries", "memory_shape", "tied", "estimator", "z_gradient")

    def _refuse(self, model: str, *names: str) -> None:
        """Refuse other values than the defaults for what another model alone has."""
        for name in names:
            if getattr(self, name) != getattr(TrainSpec, name):
                raise InputError(f"{name} is given for {self.model}: it is for {model}, leave it out")

    def _check_estimator(self) -> None:
        if self.estimator in SETS:
            check_whole("num_samples of a set of entries", self.num_samples, 2, min(self._fewest_entries, MOST_IN_SET))
        for name in ("path", "z_gradient"):
            value = getattr(self, name)
            if self.estimator == "gumbel" and value != getattr(TrainSpec, name):
                raise InputError(
                    f"{name} is {value} with estimator gumbel, which has a forward of its own: leave it out"
                )
        if self.gradient_entries is not None and self.estimator in (*ENUMERATED, "gumbel"):
            raise InputError(
                f"gradient_entries is given with estimator {self.estimator}, which takes all entries: leave it out"
            )
        if self.estimator in ENUMERATED and self.episode.fewest_shots is not None:
            raise InputError(f"fewest_shots is given with estimator {self.estimator}, whose samples are the entries")
        if self.z_gradient != TrainSpec.z_gradient and self.path is not None:
            raise InputError(f"z_gradient is {self.z_gradient}: the reference path has iwae alone")
        if self.z_gradient == "single" and self.estimator in (*SETS, *ENUMERATED):
            raise InputError(f"z_gradient is single with estimator {self.estimator}: it needs independent draws")

    @property
    def _most_entries(self) -> int:
        return self.learned_entries or self.episode.num_entries

    @property
    def _fewest_entries(self) -> int:
        if self.episode.fewest_shots is not None:
            return self.episode.classes * self.episode.fewest_shots
        return min((size for size, _ in self.growth or ()), default=self._most_entries)

    def _check_gmn(self) -> None:
        if self.model != "gmn":
            self._refuse("gmn", "hops", "prior_hops", "strength", "skips")
        if self.network == "gmn":
            if self.model not in ("gmn", "vae") or self.skips:
                raise InputError("network gmn has no skip connections: it is for gmn without skips, and for vae")
            check_whole("image_size of network gmn", self.image_size, LEAST_SIZE, MOST)
        _check_sequences(self.model, self.episode)

    def _check_memory(self) -> None:
        if self.learned_entries is None and self.memory_shape is not None:
            raise InputError("memory_shape is given without learned_entries: entries that episodes bring are images")
        if self.model not in NEEDLESS and (self.episode.protocol == "none") != (self.learned_entries is not None):
            raise InputError(
                f"protocol is {self.episode.protocol}, learned_entries is {self.learned_entries}: a learned memory "
                "goes with protocol none, every other one with a protocol that brings it"
            )
        image = (self.image_size, self.image_size)
        shape = self.memory_shape or (1, *image)
        if self.network in CONVOLUTIONAL and shape[1:] != image:
            raise InputError(
                f"memory_shape is {shape}, must be of the image's size, (channels, {self.image_size}, "
                f"{self.image_size}), for network {self.network}: the others of {', '.join(MLPS)} take any"
            )
        if self.learned_entries is not None:
            numbers = self.learned_entries * math.prod(shape)
            check_whole("learned_entries x memory_shape", numbers, 1, MOST_NUMBERS)

    @cached_property
    def train_id(self) -> str:
        """The hash that names the run in rows."""
        return spec_id(identity(self))

    @cached_property
    def run_id(self) -> str:
        """The hash by which a run goes on: with other `SETTINGS`, as on another machine, it is the same run."""
        return spec_id({k: v for k, v in identity(self).items() if k not in SETTINGS})

    @property
    def trunk(self) -> "TrainSpec | None":
        """The run at a constant rate whose first `decay_from` updates are this run's as well; None without that."""
        if self.decay_from is None:
            return None
        recipe = "paper" if self.recipe == "annealed" else self.recipe.removesuffix("-annealed")
        return replace(self, recipe=recipe, decay_from=None, decay_updates=None)

    @property
    def name(self) -> str:
        """Its model for messages, and what that reads where it can differ."""
        return self.model if self.read is None else f"{self.model} ({self.read})"

    @property
    def takes_memory(self) -> bool:
        """Whether the model reads the memory of an episode: a plain VAE has none, and a learned one is its own."""
        return self.model != "vae" and self.learned_entries is None

    @cached_property
    def science_id(self) -> str:
        """The hash of what decides the numbers up to rounding: all but the path, the precision and the number of
        threads.
        """
        return spec_id({k: v for k, v in identity(self).items() if k not in (*SETTINGS, "path")})


def _check_sequences(model: str, episode: EpisodeSpec) -> None:
    if episode.protocol == "sequence" and model != "gmn":
        raise InputError(f"protocol is sequence for {model}: it is for gmn, which can do with nothing in memory")


def _check_growth(growth: tuple[tuple[int, int], ...], episode: EpisodeSpec) -> None:
    if episode.memory_size is None:
        raise InputError(f"growth is given with protocol {episode.protocol}: it needs protocol recall")
    sizes, untils = [*(size for size, _ in growth), episode.memory_size], [0, *(until for _, until in growth)]
    if sizes != sorted(sizes):
        raise InputError(f"growth goes through memories of {', '.join(map(str, sizes))} entries, must not shrink")
    if any(one >= other for one, other in pairwise(untils)):
        raise InputError(f"growth has stages until updates {', '.join(map(str, untils[1:]))}, must ascend from above 0")


def spec_id(spec: Mapping[str, Any]) -> str:
    """12 hex digits that name a spec: sha256 over its canonical JSON, whatever the order of its keys."""
    canonical = json.dumps(spec, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:12]


def identity(spec: Any) -> dict[str, Any]:
    """The fields of a spec that have another value than their default, and those of `HASHED`; of nested specs too. A
    field that is added later changes no hash as long as it has its default.
    """
    found = {}
    for one in fields(spec):
        value = getattr(spec, one.name)
        if value != one.default or (one.name in HASHED and value is not None):
            found[one.name] = identity(value) if is_dataclass(value) else value
    return found


@dataclass(frozen=True)
class EvalSpec:
    """One evaluation: how many targets of which split, drawn how, with how many samples each, and what is computed.

    `task` None is the bound and its parts; the others are names in `benchmarks.runs.tasks`. `memory_size` leaves that
    many entries of each episode's memory, one of every class among them.
    """

    episode: EpisodeSpec
    num_samples: Annotated[int, partial(check_whole, least=1, most=MOST_SAMPLES)] = 4
    targets: Annotated[int, partial(check_whole, least=1, most=MOST_SAMPLES)] = 1000
    split: Annotated[str, partial(check_name, allowed=SPLITS)] = "test"
    task: Annotated[str, partial(check_name, allowed=TASKS, none="the bound")] | None = None
    memory_size: Entries | None = None
    seed: Seed = 0
    dtype: Dtype = "float32"
    threads: Threads = 2

    def __post_init__(self) -> None:
        _check_fields(self)
        entries = self.episode.num_entries
        if self.memory_size is not None:
            if self.episode.protocol == "none":
                raise InputError("memory_size is given for episodes without memory: leave it out")
            if self.episode.protocol == "sequence":
                raise InputError("memory_size is given for sequences, whose memory is what came before: leave it out")
            # under the other protocols an episode tells how many classes its memory has
            classes = self.episode.classes if self.episode.protocol == "per_class" else 1
            check_whole("memory_size", self.memory_size, classes, entries)
        if self.task in (*ADDRESS_TASKS, "samples") and self.episode.protocol == "none":
            raise InputError(f"task is {self.task} with protocol none: it needs a protocol that brings a memory")
        if self.task == "samples":
            check_whole("num_samples of task samples", self.num_samples, 1, MOST_AT_ONCE)
        if self.task == "gradient-noise":
            check_whole("num_samples of task gradient-noise", self.num_samples, 2, MOST_AT_ONCE)  # a variance needs two
        if self.task in ENUMERATIONS:
            each = len(SHIFTS) if self.task == "classification-shifted" else 1
            check_whole("num_samples x entries", self.num_samples * entries * each, 1, MOST_SAMPLES)

    @property
    def steps(self) -> range:
        """The episodes that hold at least `targets` targets."""
        return range(-(-self.targets // self.episode.num_targets))

    @cached_property
    def eval_id(self) -> str:
        """The hash that names the evaluation."""
        return spec_id(identity(self))


@dataclass(frozen=True)
class Cell:
    """What is trained and what is evaluated. `updates` is what the experiment asks of the training, None if nothing is
    to be trained; `variant` is its name among variants of one experiment.
    """

    train: TrainSpec
    eval: EvalSpec
    updates: Updates | None = None
    variant: str | None = None

    def __post_init__(self) -> None:
        _check_fields(self)
        task, protocol = self.eval.task, self.eval.episode.protocol
        if task == "wallclock":
            return  # which times the updates of the training, and evaluates nothing
        model, learned = self.train.model, self.train.learned_entries is not None
        # a model of the user's own is asked, see `benchmarks.declare.own_model`
        if task in ADDRESS_TASKS and model in MODELS and model != "vma":
            raise InputError(f"task is {task} for {model}, which has no address: it is for vma")
        if task == "learned" and not learned:
            raise InputError("task is learned for a model without learned_entries: give them, or another task")
        _check_sequences(model, self.eval.episode)
        if model not in NEEDLESS and learned != (protocol == "none"):
            what = "a learned memory" if learned else f"{model} without a learned memory"
            raise InputError(
                f"protocol of the evaluation is {protocol} for {what}: a learned memory goes with protocol none, every "
                "other one with a protocol that brings it"
            )

    def row(self) -> dict[str, Any]:
        """The keys of a result row that the specs decide."""
        train, evaluation = self.train, self.eval
        conditioned = train.model != "vae"
        memory = train.learned_entries if train.learned_entries else train.episode.num_entries
        tested = train.learned_entries or evaluation.memory_size or evaluation.episode.num_entries
        trained_by_class = conditioned and train.episode.protocol in BY_CLASS
        tested_by_class = conditioned and evaluation.episode.protocol in BY_CLASS
        return {
            "model": train.model,
            "read": train.read,
            "recipe": train.recipe,
            "dataset": train.dataset,
            "split": evaluation.split,
            "protocol": evaluation.episode.protocol if conditioned else "none",
            "train_seed": train.seed,
            "learning_rate": train.learning_rate,
            "train_classes": train.episode.classes if trained_by_class else None,
            "train_shots": train.episode.shots if trained_by_class else None,
            "train_memory_size": memory if conditioned else None,
            "train_num_samples": train.num_samples,
            "train_protocol": train.episode.protocol if conditioned else "none",
            "classes": evaluation.episode.classes if tested_by_class else None,
            "shots": evaluation.episode.shots if tested_by_class else None,
            "memory_size": tested if conditioned else None,
            "num_samples": evaluation.num_samples,
            "threads": evaluation.threads,
            "dtype": evaluation.dtype,
            "weight_decay": train.weight_decay,
            "variant": self.variant,
        }


def _check_fields(spec: Any) -> None:
    """Refuse a field whose value its annotation does not allow: by the check beside its type, else by its type.

    Raises:
        InputError: naming the field and what is allowed.
    """
    for name, hint in get_type_hints(type(spec), include_extras=True).items():
        value, optional = getattr(spec, name), NoneType in get_args(hint)
        if value is None and optional:
            continue
        kind = get_args(hint)[0] if optional else hint
        if hasattr(kind, "__metadata__"):
            for check in kind.__metadata__:
                check(name, value)
        elif not isinstance(value, kind):
            raise InputError(f"{name} is {reprlib.repr(value)}, must be of type {kind.__name__}")


def train_spec(identity: Mapping[str, Any]) -> TrainSpec:
    """The training spec with this `identity`, which JSON may have made lists of tuples in.

    Raises:
        InputError: if a field is not what it may be.
        TypeError: if it is no mapping, or names a field that there is none of.
        KeyError: if it has no episode.
    """
    fields = {name: _tuples(value) for name, value in {**identity}.items()}
    return TrainSpec(**fields | {"episode": EpisodeSpec(**identity["episode"])})


def eval_spec(identity: Mapping[str, Any]) -> EvalSpec:
    """The evaluation spec with this `identity`.

    Raises:
        InputError, TypeError, KeyError: as `train_spec`.
    """
    return EvalSpec(**{**identity, "episode": EpisodeSpec(**identity["episode"])})


def _tuples(value: Any) -> Any:
    if not isinstance(value, list):
        return value
    return tuple(tuple(part) if isinstance(part, list) else part for part in value)
