(() => {
  'use strict';
  const root = document.documentElement;
  const system = matchMedia('(prefers-color-scheme: dark)');
  // A page opened from a file may have no storage.
  const stored = (write) => { try { return write === undefined ? localStorage.getItem('luma-theme') : localStorage.setItem('luma-theme', write); } catch { return null; } };
  root.classList.add('script');
  const chosen = stored();
  if (chosen === 'dark' || chosen === 'light') root.dataset.theme = chosen;
  document.addEventListener('DOMContentLoaded', () => {
    for (const part of document.querySelectorAll('.needs-script')) part.hidden = false;
    const button = document.getElementById('theme');
    const isDark = () => (root.dataset.theme || (system.matches ? 'dark' : 'light')) === 'dark';
    const tell = () => button.setAttribute('aria-pressed', String(isDark()));
    button.addEventListener('click', () => { root.dataset.theme = isDark() ? 'light' : 'dark'; stored(root.dataset.theme); tell(); });
    system.addEventListener('change', tell);
    tell();
  });
})();
