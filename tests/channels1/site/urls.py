"""The URLs of the pages."""

from django.conf.urls import url

from . import views

urlpatterns = [
    url(r"^$", views.home),
    url(r"^upload/$", views.upload),
    url(r"^download/(\d+)/$", views.download),
    url(r"^visits/$", views.visits),
    url(r"^login/$", views.login),
    url(r"^post/(\w+)/$", views.post),
    url(r"^slow/$", views.slow),
    url(r"^meet/$", views.meet),
]
