"""The pages; each answers with the worker's process id and thread."""

import hashlib
import json
import os
import threading
import time

from channels import Channel, Group
from django.contrib.auth import login as log_in
from django.contrib.auth.models import User
from django.http import HttpResponse, JsonResponse

MEETING = threading.Barrier(4)


def answer(**values):
    """Return a page with these values and the worker's process id and thread."""
    return JsonResponse(dict(values, pid=os.getpid(), thread=threading.current_thread().ident))


def home(request):
    """Answer with the path: the smallest page."""
    return answer(path=request.path)


def upload(request):
    """Answer with size and digest of the uploaded file, or else of the body."""
    body = request.FILES["file"].read() if request.FILES else request.body
    return answer(size=len(body), sha256=hashlib.sha256(body).hexdigest())


def download(request, size):
    """Answer with ``size`` bytes, which Channels splits into several messages if there are many."""
    return HttpResponse(bytes(range(256)) * (int(size) // 256), content_type="application/octet-stream")


def visits(request):
    """Count this visitor's visits in the session."""
    request.session["visits"] = request.session.get("visits", 0) + 1
    return answer(visits=request.session["visits"])


def login(request):
    """Log a visitor in without a password."""
    user, _ = User.objects.get_or_create(username=request.GET["name"])
    log_in(request, user)
    return answer(user=user.username)


def post(request, room):
    """Send a message to a room, and a job to the channel ``site.job``."""
    Group("room-" + room).send({"text": json.dumps({"page": request.GET["text"]})})
    Channel("site.job").send({"room": room, "text": request.GET["text"]})
    return answer()


def slow(request):
    """Keep a worker busy until a file exists."""
    file = request.GET["until"]
    with open(file + ".begun", "w"):
        pass
    while not os.path.exists(file):
        time.sleep(0.01)
    return answer()


def meet(request):
    """Answer when four threads of this process have arrived, and not before."""
    MEETING.wait(timeout=50)
    return answer()
