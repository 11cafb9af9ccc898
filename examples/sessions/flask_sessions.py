"""Flask sessions in Ostrakon's `sessions` service: copy this file beside your application.

    from flask import Flask
    from flask_sessions import Sessions

    app = Flask(__name__)
    app.session_interface = Sessions("http://server:80")

It needs `flask` and `httpx`. The browser has only a random id, in a cookie as Flask's settings `SESSION_COOKIE_*` say.
The data is stored when a request has changed it; other requests extend a sliding session. If two requests of one browser
change a session at the same time, the changes are merged key by key. Call `app.session_interface.renew(session)` where
users log in, so that the id from before is worth nothing.
"""

import httpx
from flask.json.tag import TaggedJSONSerializer
from flask.sessions import SessionInterface, SessionMixin

JSON = TaggedJSONSerializer()
MISSING = object()


class Session(dict, SessionMixin):
    id = etag = None  # None until it is stored
    before = {}


class Sessions(SessionInterface):
    def __init__(self, url):
        self.client = httpx.Client(base_url=url, timeout=10)

    def open_session(self, app, request):
        return self.read(request.cookies.get(self.get_cookie_name(app), ""))

    def read(self, session_id):
        session = Session()
        # An id has letters and digits only, so that no cookie leads to another path.
        if session_id.isascii() and session_id.isalnum():
            answer = self.client.get(f"/sessions/{session_id}")
            if answer.status_code != 404:
                text = answer.raise_for_status().text
                session.update(JSON.loads(text))
                session.id, session.etag, session.before = session_id, answer.headers["etag"], JSON.loads(text)
        return session

    def save_session(self, app, session, response):
        cookie = {"path": self.get_cookie_path(app), "domain": self.get_cookie_domain(app)}
        cookie |= {"secure": self.get_cookie_secure(app), "samesite": self.get_cookie_samesite(app) or "Lax"}
        response.vary.add("Cookie")
        if not session:
            if session.id:
                self.renew(session)
                response.delete_cookie(self.get_cookie_name(app), **cookie)
        elif self.store(session):
            response.set_cookie(self.get_cookie_name(app), session.id, httponly=True, **cookie)

    def store(self, session):
        """Stores what the request has changed. Returns whether there is a new id."""
        before, headers = session.before, {"content-type": "application/json"}
        changed = {key for key in before.keys() | session if before.get(key, MISSING) != session.get(key, MISSING)}
        if not session.id:
            answer = self.client.post("/sessions", content=JSON.dumps(dict(session)), headers=headers)
            session.id = answer.raise_for_status().json()["id"]
            return True
        if not changed:
            self.client.post(f"/sessions/{session.id}/touch")
            return False
        stored, data = session, dict(session)
        # Not found: it has ended meanwhile, such as by a logout, and is not made again.
        while stored.id:
            headers["if-match"] = stored.etag
            answer = self.client.put(f"/sessions/{session.id}", content=JSON.dumps(data), headers=headers)
            if answer.status_code != 412:
                break
            stored = self.read(session.id)
            data = {key: stored[key] for key in stored if key not in changed}
            data |= {key: session[key] for key in changed if key in session}
        return False

    def renew(self, session):
        """Ends the stored session. The data goes into a new one at the end of the request."""
        if session.id:
            self.client.delete(f"/sessions/{session.id}")
        session.id = session.etag = None
