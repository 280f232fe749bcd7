"""What the pages do; each says which worker process and thread answered."""

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
    """A page of the site: the values, and who it comes from."""
    return JsonResponse(dict(values, pid=os.getpid(), thread=threading.current_thread().ident))


def home(request):
    """The smallest page."""
    return answer(path=request.path)


def upload(request):
    """Say what was received: a file of a form, or the bare body."""
    body = request.FILES["file"].read() if request.FILES else request.body
    return answer(size=len(body), sha256=hashlib.sha256(body).hexdigest())


def download(request, size):
    """That many bytes, which Channels cuts into several messages when there are many."""
    return HttpResponse(bytes(range(256)) * (int(size) // 256), content_type="application/octet-stream")


def visits(request):
    """How often this visitor was here, by the session."""
    request.session["visits"] = request.session.get("visits", 0) + 1
    return answer(visits=request.session["visits"])


def login(request):
    """Log a visitor in, without asking."""
    user, _ = User.objects.get_or_create(username=request.GET["name"])
    log_in(request, user)
    return answer(user=user.username)


def post(request, room):
    """Say something in a room, and leave a job for a worker that listens to a channel of its own."""
    Group("room-" + room).send({"text": json.dumps({"page": request.GET["text"]})})
    Channel("site.job").send({"room": room, "text": request.GET["text"]})
    return answer()


def slow(request):
    """Keep a worker busy until a file is there."""
    file = request.GET["until"]
    with open(file + ".begun", "w"):
        pass
    while not os.path.exists(file):
        time.sleep(0.01)
    return answer()


def meet(request):
    """Answer when four threads of this process are here at once; before that, none does."""
    MEETING.wait(timeout=50)
    return answer()
