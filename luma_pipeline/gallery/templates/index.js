(() => {
  'use strict';
  const byId = (id) => document.getElementById(id);
  const query = byId('query');
  if (!query) return;
  const days = [...document.querySelectorAll('.day')].map((day) => ({ day, text: `${day.dataset.name} ${day.querySelector('.name').textContent}`.toLowerCase() }));
  const chips = byId('chips');
  let show = '', due = 0;
  const apply = () => {
    clearTimeout(due);
    const words = query.value.toLowerCase().split(/\s+/).filter(Boolean);
    let amount = 0;
    for (const { day, text } of days) {
      day.hidden = !((!show || Number(day.dataset[show]) > 0) && words.every((word) => text.includes(word)));
      amount += !day.hidden;
    }
    for (const month of document.querySelectorAll('.month')) month.hidden = !month.querySelector('.day:not([hidden])');
    for (const button of chips.children) button.setAttribute('aria-pressed', String(button.dataset.show === show));
    byId('count').textContent = amount === days.length ? `${amount.toLocaleString('en')} shown` : `${amount.toLocaleString('en')} of ${days.length.toLocaleString('en')} shown`;
    byId('nothing').hidden = amount > 0;
  };
  query.addEventListener('input', () => { clearTimeout(due); due = setTimeout(apply, 80); });
  query.addEventListener('keydown', (event) => { if (event.key === 'Escape' && query.value) { event.preventDefault(); query.value = ''; apply(); } });
  chips.addEventListener('click', (event) => { const button = event.target.closest('button'); if (button) { show = button.dataset.show; apply(); } });
  byId('reset').addEventListener('click', () => { query.value = ''; show = ''; apply(); query.focus(); });
  document.addEventListener('keydown', (event) => {
    if (event.key !== '/' || event.ctrlKey || event.metaKey || event.altKey || event.target.matches('input')) return;
    event.preventDefault();
    query.focus();
    query.select();
  });
  const links = () => days.filter(({ day }) => !day.hidden).map(({ day }) => day.querySelector('a'));
  const columns = (day) => Math.max(1, getComputedStyle(day.parentElement).gridTemplateColumns.split(' ').length);
  document.querySelector('main').addEventListener('keydown', (event) => {
    const day = event.target.closest('.day');
    if (!day || event.altKey || event.ctrlKey || event.metaKey || event.shiftKey) return;
    const step = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns(day), ArrowUp: -columns(day) }[event.key];
    if (!step) return;
    event.preventDefault();
    const all = links();
    all[Math.min(all.length - 1, Math.max(0, all.indexOf(day.querySelector('a')) + step))].focus();
  });
  const frames = new IntersectionObserver((entries) => {
    for (const { target, isIntersecting } of entries) {
      if (isIntersecting) {
        if (target.dataset.src) { target.src = target.dataset.src; delete target.dataset.src; }
        target.preload = 'metadata';
      } else if (target.readyState > 0) {
        target.dataset.src = target.getAttribute('src');
        target.removeAttribute('src');
        target.preload = 'none';
        target.load();
      }
    }
  }, { rootMargin: '100% 0px' });
  for (const clip of document.querySelectorAll('video')) frames.observe(clip);
  document.querySelector('main').addEventListener('error', (event) => {
    if (event.target.matches('video[src], img')) event.target.remove();
  }, true);
  apply();
})();
