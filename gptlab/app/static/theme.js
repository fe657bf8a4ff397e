// Before anything is drawn: light or dark as chosen here once, otherwise as the system has it.
const chosen = localStorage.getItem("theme");
if (chosen) document.documentElement.dataset.theme = chosen;
