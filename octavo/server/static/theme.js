// Before the first paint: the theme that was chosen last time, else the system's.
(() => {
  try {
    const theme = localStorage.getItem("octavo.theme");
    if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
  } catch {
    // Storage can be blocked; the system's theme is fine.
  }
})();
