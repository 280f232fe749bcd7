"""Everything is in setup.cfg, except the links of the README: PyPI needs absolute ones."""

import re

import setuptools

#: What comes before the target of an image, and of a link: in the text, in an image's ``:target:``, or by a name.
IMAGE = r"^[ ]*\.\.[ ](?:\|[^|\n]+\|[ ])?(?:image|figure)::[ ]+"
LINK = r"`[^`<>]*<|^[ ]*:target:[ ]+|^[ ]*\.\.[ ]_[^:\n]+:[ ]+|^__[ ]+"
#: A path. It is neither a URL nor an anchor of the same page, and does not end in an underscore as names of links do.
PATH = r"(?![a-z][a-z0-9+.-]*:|\#)(?P<path>[^\s<>`]+)(?<!_)(?=>|[ ]*$)"
RELATIVE = re.compile(rf"(?P<before>(?P<image>{IMAGE})|{LINK}){PATH}", re.MULTILINE)


def with_absolute_links(text, repository, tag):
    """Return RST whose relative links and images point to a tag of a repository on GitHub."""
    pages = f"{repository}/blob/{tag}/"
    files = pages.replace("://github.com/", "://raw.githubusercontent.com/").replace("/blob/", "/")
    return RELATIVE.sub(lambda found: found["before"] + (files if found["image"] else pages) + found["path"], text)


class Distribution(setuptools.Distribution):
    """Changes the long description when it has been read, so that setup.cfg is the only source of the metadata."""

    def parse_config_files(self, *args, **options):
        super().parse_config_files(*args, **options)
        about = self.metadata
        about.long_description = with_absolute_links(
            about.long_description, about.project_urls["Source"], about.version
        )


setuptools.setup(distclass=Distribution)
