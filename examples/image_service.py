"""A web service whose requests start runs: thumbnails of an image in several sizes, side by side, then a manifest.

    python examples/image_service.py

It starts the service (FastAPI, by uvicorn), two worker processes and, without a REDIS_URL, an embedded Valkey, all of
them on the loopback interface; then it plays a client, and stops everything. The service has four endpoints:

    POST /images             an image (PPM) is the body; starts its run, after ?delay= milliseconds
    GET /images/{id}         how the run stands: its state, its progress, its failures; its manifest, for a while
    GET /images/{id}/events  the same whenever it has changed, as server-sent events, until the run is at rest
    DELETE /images/{id}      cancels it
"""

from __future__ import annotations

import asyncio
import json
import os
import struct
import sys
import tempfile
import urllib.error
import urllib.request
import uuid
import zlib
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import dramatiq
from dramatiq.brokers.redis import RedisBroker
from fastapi import FastAPI, HTTPException, Query, Request
from fastapi import Path as InPath
from fastapi.responses import JSONResponse, StreamingResponse
from running import REDIS_URL, free_port, interrupt_at_the_next_pause, pause, running, server_and_workers

from dramatiq_clutch import (
    Clutch,
    ClutchMiddleware,
    ResultsGone,
    Run,
    RunNotFound,
    RunStatus,
    StateUnavailable,
    previous_results,
)

broker = RedisBroker(url=REDIS_URL, namespace="image-service")
broker.add_middleware(ClutchMiddleware())
dramatiq.set_broker(broker)

#: Where images are; all processes find it in the environment.
FOLDER = "CLUTCH_EXAMPLE_IMAGES"

SIZES = (16, 32, 64)
LARGEST = 1_000_000


# The work: two actors, one clutch.


@dramatiq.actor(throws=ValueError, max_retries=3)  # what isn't an image won't become one
def thumbnail(image: str, size: int) -> dict[str, Any]:
    width, height, pixels = from_ppm(file_of(image, ".ppm").read_bytes())
    file = file_of(image, f"-{size}.png")
    rows = max(height * size // width, 1)
    file.write_bytes(to_png(size, rows, scaled(width, height, pixels, size, rows)))
    return {"width": size, "height": rows, "bytes": file.stat().st_size}


@dramatiq.actor
def write_manifest(image: str) -> dict[str, Any]:
    manifest = {"image": image, "thumbnails": previous_results()}
    file_of(image, ".json").write_text(json.dumps(manifest))
    return manifest


def thumbnails(image: str) -> Clutch:
    return (
        Clutch(name="thumbnails")
        .parallel((thumbnail.message(image, size) for size in SIZES), name="resize")
        .then(write_manifest.message(image), name="manifest")
    )


# The service. The run of an image has the image's id. Every call that talks to the server is awaited, so that the event
# loop is free for other requests.

app = FastAPI(title="Thumbnails")

#: The id of an image is part of the names of files, so it may be nothing but what the service itself has made.
ImageId = Annotated[str, InPath(pattern="^[0-9a-f]{32}$")]


@app.post("/images", status_code=202)
async def start(request: Request, delay: Annotated[int, Query(ge=0)] = 0) -> dict[str, str]:
    body = await request.body()
    if len(body) > LARGEST:
        raise HTTPException(413, f"an image may have {LARGEST:,} bytes")
    image = uuid.uuid4().hex
    await asyncio.to_thread(file_of(image, ".ppm").write_bytes, body)
    await thumbnails(image).run_async(run_id=image, delay=delay)
    return {"id": image, "status": f"/images/{image}"}


@app.get("/images/{image}")
async def show(image: ImageId) -> dict[str, Any]:
    return await shown(image, await Run(image).status_async())


@app.get("/images/{image}/events")
async def follow(image: ImageId) -> StreamingResponse:
    watch = Run(image).watch()
    await Run(image).status_async()  # where there is no such run, this says so before the answer has begun

    async def events() -> AsyncIterator[str]:
        async for status in watch:
            yield f"data: {json.dumps(await shown(image, status))}\n\n"

    return StreamingResponse(events(), media_type="text/event-stream")


async def shown(image: str, status: RunStatus) -> dict[str, Any]:
    answer: dict[str, Any] = {
        "state": status.state,
        "progress": status.progress,
        "stages": {stage.name: f"{stage.succeeded} of {stage.total}" for stage in status.stages},
        "failures": [f"{failure.actor}: {failure.exception_text}" for failure in status.failures],
    }
    if status.state == "succeeded":
        with suppress(ResultsGone):  # a result is kept for ten minutes, a status for a week
            answer["manifest"] = await Run(image).get_result_async(block=False)
    return answer


@app.delete("/images/{image}")
async def cancel(image: ImageId) -> dict[str, bool]:
    return {"cancelled": await Run(image).cancel_async()}


@app.exception_handler(RunNotFound)
async def unknown(_request: Request, _error: Exception) -> JSONResponse:
    return JSONResponse({"detail": "there is no such image"}, 404)


@app.exception_handler(StateUnavailable)
async def away(_request: Request, _error: Exception) -> JSONResponse:
    return JSONResponse({"detail": "try again later"}, 503, {"Retry-After": "5"})


# Images, by the standard library alone.


def file_of(image: str, ending: str) -> Path:
    return Path(os.environ[FOLDER], image + ending)


def to_ppm(width: int, height: int, pixels: bytes) -> bytes:
    return b"P6 %d %d 255\n" % (width, height) + pixels


def from_ppm(data: bytes) -> tuple[int, int, bytes]:
    """Width, height and pixels, three bytes each. Raises ValueError."""
    try:
        head, pixels = data.split(b"\n", 1)
        kind, width, height, _ = head.split()
        if kind == b"P6" and int(width) > 0 and len(pixels) == 3 * int(width) * int(height):
            return int(width), int(height), pixels
    except ValueError:
        pass
    raise ValueError(f"not an image: {data[:20]!r}")


def scaled(width: int, height: int, pixels: bytes, columns: int, rows: int) -> bytes:
    """The pixels of an image with so many columns and rows: for each the nearest one."""
    places = (
        3 * (row * height // rows * width + column * width // columns)
        for row in range(rows)
        for column in range(columns)
    )
    return b"".join(pixels[place : place + 3] for place in places)


def to_png(width: int, height: int, pixels: bytes) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    lines = b"".join(b"\0" + pixels[at : at + 3 * width] for at in range(0, len(pixels), 3 * width))
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")


# The client.


def call(method: str, url: str, body: bytes | None = None) -> tuple[int, Any]:
    """The status and the answer of a request."""
    request = urllib.request.Request(url, body, {"Content-Type": "application/octet-stream"}, method=method)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


def follow_to_the_end(url: str) -> Iterator[dict[str, Any]]:
    """What the service tells, event by event, until it ends the stream."""
    with urllib.request.urlopen(url, timeout=30) as stream:
        for line in stream:
            if line.startswith(b"data: "):
                yield json.loads(line.removeprefix(b"data: "))


def wait_for(url: str, *states: str) -> dict[str, Any]:
    while True:
        _, shown = call("GET", url)
        if shown["state"] in states:
            return dict(shown)
        pause(0.05)


def main() -> int:
    interrupt_at_the_next_pause()
    with tempfile.TemporaryDirectory(prefix="clutch-images-") as folder:
        os.environ[FOLDER] = folder
        port = free_port()
        service = ("uvicorn", "image_service:app", "--app-dir", str(Path(__file__).parent), "--port", str(port))
        log = Path(folder, "service.log")
        with server_and_workers(__file__), running(*service, "--host", "127.0.0.1", log=log) as check:
            while "Uvicorn running on" not in log.read_text():
                check()
                pause(0.05)
            play_a_client(f"http://127.0.0.1:{port}", folder)
    return 0


def play_a_client(address: str, folder: str) -> None:
    sunset = to_ppm(
        256, 128, b"".join(bytes((255 - row, 128 - row, column)) for row in range(128) for column in range(256))
    )

    code, started = call("POST", f"{address}/images", sunset)
    shown = wait_for(address + started["status"], "succeeded", "failed")
    print(f"1. An image: {code}, then {shown['state']}; {shown['stages']}.")
    for one, size in zip(shown["manifest"]["thumbnails"], SIZES, strict=True):
        is_png = Path(folder, f"{started['id']}-{size}.png").read_bytes().startswith(b"\x89PNG")
        print(f"   {one['width']} by {one['height']}, {'a PNG' if is_png else 'NO PNG'} of {one['bytes']} bytes")

    code, started = call("POST", f"{address}/images", b"<script>alert(1)</script>")
    shown = wait_for(address + started["status"], "succeeded", "failed")
    print(f"2. No image: {code}, then {shown['state']}: {shown['failures'][0]}")

    code, started = call("POST", f"{address}/images?delay=3600000", sunset)
    _, shown = call("DELETE", address + started["status"])
    _, again = call("DELETE", address + started["status"])
    _, after = call("GET", address + started["status"])
    print(f"3. One that is cancelled before it begins: {code}, then {shown}, again {again}: it is {after['state']}.")

    code, answer = call("GET", f"{address}/images/{'0' * 32}")
    print(f"4. One that nobody has sent: {code}, {answer['detail']}.")
    code, _ = call("GET", f"{address}/images/..%2Fservice")
    print(f"5. One whose id is none: {code}.")

    _, started = call("POST", f"{address}/images?delay=200", sunset)
    events = list(follow_to_the_end(f"{address}{started['status']}/events"))
    print(f"6. One that is followed: first it is {events[0]['state']}, at last {events[-1]['state']}.")


if __name__ == "__main__":
    sys.exit(main())
