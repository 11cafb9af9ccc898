"""The course's store, as its lessons have it: Flask, a file per key, no sync."""

import pathlib
import sys

from flask import Flask
from werkzeug.serving import BaseWSGIServer

DATA = pathlib.Path(sys.argv[1])
app = Flask(__name__)


@app.get("/save/<key>/<word>")
def save(key, word):
    (DATA / key).write_text(word)
    return word


@app.get("/load/<key>")
def load(key):
    try:
        return (DATA / key).read_text()
    except FileNotFoundError:
        return "_key_not_found_"


if __name__ == "__main__":
    import logging

    logging.getLogger("werkzeug").disabled = True
    # As many as connect at once: others would be dropped without a word.
    BaseWSGIServer.request_queue_size = 1024
    app.run(host="127.0.0.1", port=int(sys.argv[2]), threaded=True)
