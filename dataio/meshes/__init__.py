"""From a mesh file to twelve views: reading, ray casting, cameras, and folders of rendered views.

May import: dataio.
"""

from dataio.meshes.cameras import Camera, Frame
from dataio.meshes.ray_casting import Hits, Scene
from dataio.meshes.reading import load_mesh
from dataio.meshes.rendering import RenderSpec, described, preset, render_scene
from dataio.meshes.shape_folder import render_mesh
from dataio.meshes.up_axis import doubts, upright
from dataio.meshes.views_folder import QUARANTINE_NAME, Rendered, open_rendered, render_records

__all__ = [
    "QUARANTINE_NAME",
    "Camera",
    "Frame",
    "Hits",
    "RenderSpec",
    "Rendered",
    "Scene",
    "described",
    "doubts",
    "load_mesh",
    "open_rendered",
    "preset",
    "render_mesh",
    "render_records",
    "render_scene",
    "upright",
]
