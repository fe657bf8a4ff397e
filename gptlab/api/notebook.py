"""What a notebook shows of a run."""

import base64
import io

from matplotlib.figure import Figure


class NotebookFigure(Figure):
    """A figure that notebooks show without pyplot, whatever MPLBACKEND says."""

    def _repr_png_(self) -> bytes:
        file = io.BytesIO()
        self.savefig(file, format="png", dpi=100)
        return file.getvalue()


def image_tag(figure: NotebookFigure) -> str:
    """Return an HTML image that contains the figure."""
    data = base64.b64encode(figure._repr_png_()).decode()
    return f'<img alt="loss over steps" src="data:image/png;base64,{data}">'
