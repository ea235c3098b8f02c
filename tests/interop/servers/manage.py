"""Django in one file: its generation and its supervisor."""
import os
import sys

from django.conf import settings
from django.core.management import execute_from_command_line
from django.http import HttpResponse
from django.urls import path

BODY = f"generation {os.environ['GRACEFUL_RUN_GENERATION']} supervisor {os.environ['GRACEFUL_RUN_PID']}\n"

settings.configure(DEBUG=True, ALLOWED_HOSTS=["*"], SECRET_KEY="shop", ROOT_URLCONF=__name__)
urlpatterns = [path("", lambda request: HttpResponse(BODY, headers={"Content-Length": len(BODY)}))]
execute_from_command_line(sys.argv)
