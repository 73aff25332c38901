"""A hook of hatchling: a wheel carries what pyproject.toml lists as `carried`, below vt_course/_course."""

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class Carry(BuildHookInterface):
    def initialize(self, version, build_data):
        if self.target_name == "wheel" and version != "editable":  # an editable package lies in its checkout
            build_data["force_include"] |= {name: f"vt_course/_course/{name}" for name in self.config["carried"]}
