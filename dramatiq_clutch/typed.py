"""What a type checker sees of results: which steps leave a result of which type. At run time there is next to nothing
of it, and nothing is checked.

An actor that returns the handle of a nested run leaves that run's result, so these types look into handles.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from functools import partial
    from typing import Literal, Protocol, TypeAlias, TypedDict, Union

    from dramatiq import GenericActor, Message, group, pipeline
    from typing_extensions import TypeVar as TypeVarWithDefault  # checkers know it, also where it isn't installed

    from .clutch import Clutch
    from .durations import Duration
    from .run import Run
    from .terms import Allowance

#: The type of the result of a clutch and of its runs. With a bare `Clutch` or `Run` in an annotation it is any type.
if TYPE_CHECKING:
    R = TypeVarWithDefault("R", covariant=True, default=Any)
    T = TypeVarWithDefault("T", default=Any)  # of a stage without members
else:
    R = TypeVar("R", covariant=True)

if TYPE_CHECKING:
    Returned = TypeVar("Returned", covariant=True)

    class Typed(Protocol[Returned]):
        """An actor, by what it returns. Dramatiq's `Actor` won't do, because for a checker one that returns a bool is
        none that returns an int."""

        def message(self, *args: Any, **kwargs: Any) -> Message[Returned]: ...

    #: A step that leaves a T: it returns one, or the handle of a run that results in one, now this and now that.
    Gives: TypeAlias = Message[Run[T] | T] | Typed[Run[T] | T] | partial[T] | partial[Run[T] | T] | Clutch[T]

    #: Steps that return a handle, a list of handles, or a handle or None. Mypy doesn't find these among the ones above,
    #: so a method with overloads has them first.
    Nests: TypeAlias = Message[Run[T]] | Typed[Run[T]] | partial[Run[T]]
    NestsMany: TypeAlias = Message[list[Run[T]]] | Typed[list[Run[T]]] | partial[list[Run[T]]]
    NestsOrNot: TypeAlias = Message[Run[T] | None] | Typed[Run[T] | None] | partial[Run[T] | None]

    #: Steps of which a checker doesn't know what they return. Where pyright reports what has no type, it complains of
    #: `group`, whose arguments Dramatiq hasn't annotated; in quotes it doesn't.
    Untyped: TypeAlias = Union[GenericActor, type[GenericActor], pipeline, "group"]  # noqa: UP007

    #: What `parallel` takes: steps, an iterable of steps, or a callable that returns one.
    ManyGive: TypeAlias = Gives[T] | Iterable[Gives[T]] | Callable[[], Iterable[Gives[T]]]
    ManyNest: TypeAlias = Nests[T] | Iterable[Nests[T]] | Callable[[], Iterable[Nests[T]]]
    ManyNestMany: TypeAlias = NestsMany[Any] | Iterable[NestsMany[Any]] | Callable[[], Iterable[NestsMany[Any]]]
    ManyUntyped: TypeAlias = Untyped | Iterable[Untyped] | Callable[[], Iterable[Untyped]]

    # The keywords of the methods. With `Whole`, all members of a stage succeed; with `Part` there may be None for some.

    class Named(TypedDict, total=False):
        deadline: Duration | None
        name: str | None

    class Then(Named, total=False):
        pipe: bool | str

    class Several(Named, total=False):
        limit: int | None
        fail_fast: bool | None

    class Whole(Several, total=False):
        allow_failures: Literal[False]
        enough: None

    class Part(Several, total=False):
        allow_failures: Allowance
        enough: int | None

    class ParallelWhole(Whole, total=False):
        pipe: bool | str

    class ParallelPart(Part, total=False):
        pipe: bool | str

    class MapWhole(Whole, total=False):
        into: str | None

    class MapPart(Part, total=False):
        into: str | None
