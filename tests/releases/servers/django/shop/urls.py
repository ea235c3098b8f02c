"""One view, which answers with the release and the number of the request."""
from django.http import HttpResponse
from django.urls import path

from shop import release


def answer(_request, number):
    release.begin(number)
    return HttpResponse(f"release {release.NAME} request {number}\n", content_type="text/plain")


urlpatterns = [path("<int:number>", answer)]
