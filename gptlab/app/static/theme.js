// Apply the saved theme before anything is drawn; without one the system's applies.
const theme = localStorage.getItem("theme");
if (theme) document.documentElement.dataset.theme = theme;
