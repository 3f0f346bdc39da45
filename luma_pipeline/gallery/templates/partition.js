(() => {
  'use strict';
  const byId = (id) => document.getElementById(id);
  const grid = byId('grid');
  if (!grid) return;
  const fold = (text) => text.normalize('NFKD').replace(/\p{M}/gu, '').toLowerCase();
  const number = (value) => (value === '' ? null : Number(value));
  const STATUSES = [['ready', 'Ready'], ['missing', 'Video missing'], ['open', 'In progress'], ['failed', 'Failed'], ['unknown', 'No answer']];
  const tasks = [...grid.children].map((card, place) => ({
    card,
    place,
    shot: card.querySelector('.shot'),
    status: STATUSES.findIndex(([status]) => card.classList.contains(status)),
    text: fold(['.prompt', '.error', '.id'].map((part) => card.querySelector(part)?.textContent ?? '').join('\n')),
    time: number(card.dataset.time),
    bytes: number(card.dataset.bytes),
    seconds: number(card.dataset.seconds),
    pixels: number(card.dataset.pixels),
  }));
  for (const { shot } of tasks) {
    if (!shot.hasAttribute('href')) shot.setAttribute('role', 'button');
    shot.setAttribute('aria-haspopup', 'dialog');
  }
  const ofCard = new Map(tasks.map((task) => [task.card, task]));

  // -- search, filter, sort ------------------------------------------------------------------------------------------

  const query = byId('query'), sort = byId('sort'), chips = byId('chips'), count = byId('count'), nothing = byId('nothing');
  const chosen = { status: -1 };
  let shown = tasks;

  const chip = (label, status, amount) => {
    const button = document.createElement('button');
    button.type = 'button';
    button.append(label, ' ');
    const how = document.createElement('span');
    how.textContent = amount.toLocaleString('en');
    button.append(how);
    button.setAttribute('aria-pressed', String(status === chosen.status));
    button.dataset.status = String(status);
    button.addEventListener('click', () => { chosen.status = chosen.status === status ? -1 : status; apply(); });
    return button;
  };
  chips.append(chip('All', -1, tasks.length));
  STATUSES.forEach(([, label], status) => {
    const amount = tasks.filter((task) => task.status === status).length;
    if (amount) chips.append(chip(label, status, amount));
  });

  const compare = (key) => {
    const sign = key.startsWith('-') ? -1 : 1, field = key.replace('-', '');
    return (left, right) => {
      const a = left[field], b = right[field];
      if (a === b) return left.place - right.place;
      // What has no value comes last, whatever the order.
      if (a === null || b === null) return a === null ? 1 : -1;
      return sign * (a - b);
    };
  };

  // Laying out thousands of cards takes seconds: those that are near are in the page.
  const STEP = 120;
  let laid = 0;
  const lay = (upTo) => {
    const next = shown.slice(laid, upTo);
    grid.append(...next.map((task) => task.card));
    laid += next.length;
    byId('more').hidden = laid >= shown.length;
  };
  new IntersectionObserver((entries) => { if (entries.some((entry) => entry.isIntersecting)) lay(laid + STEP); }, { rootMargin: '200% 0px' }).observe(byId('more'));
  addEventListener('beforeprint', () => lay(shown.length));

  let due = 0;
  const apply = () => {
    clearTimeout(due);
    const held = document.activeElement;
    const words = fold(query.value).split(/\s+/).filter(Boolean);
    shown = tasks
      .filter((task) => (chosen.status < 0 || task.status === chosen.status) && words.every((word) => task.text.includes(word)))
      .sort(compare(sort.value));
    grid.replaceChildren();
    laid = 0;
    lay(STEP);
    for (const button of chips.children) button.setAttribute('aria-pressed', String(Number(button.dataset.status) === chosen.status));
    const all = shown.length === tasks.length;
    count.textContent = all ? `${tasks.length.toLocaleString('en')} shown` : `${shown.length.toLocaleString('en')} of ${tasks.length.toLocaleString('en')} shown`;
    nothing.hidden = shown.length > 0;
    rove(shown.includes(current) ? current : shown[0]);
    if (grid.contains(held)) held.focus({ preventScroll: true });
  };
  const reset = () => { query.value = ''; chosen.status = -1; apply(); query.focus(); };
  query.addEventListener('input', () => { clearTimeout(due); due = setTimeout(apply, 80); });
  query.addEventListener('keydown', (event) => { if (event.key === 'Escape' && query.value) { event.preventDefault(); query.value = ''; apply(); } });
  sort.addEventListener('change', apply);
  byId('reset').addEventListener('click', reset);

  // -- keyboard ------------------------------------------------------------------------------------------------------

  // One card is in the order of Tab; the arrows go on from there.
  for (const task of tasks) task.shot.tabIndex = -1;
  let current = tasks[0];
  const rove = (to) => {
    current.shot.tabIndex = -1;
    current = to ?? current;
    current.shot.tabIndex = 0;
  };
  const columns = () => Math.max(1, getComputedStyle(grid).gridTemplateColumns.split(' ').length);
  const steps = { ArrowRight: () => 1, ArrowLeft: () => -1, ArrowDown: columns, ArrowUp: () => -columns(), Home: () => -Infinity, End: () => Infinity };
  grid.addEventListener('keydown', (event) => {
    if (event.altKey || event.ctrlKey || event.metaKey || event.shiftKey) return;
    const at = shown.indexOf(ofCard.get(event.target.closest('.card')));
    if (at < 0) return;
    if (event.key in steps) {
      event.preventDefault();
      const to = shown[Math.min(shown.length - 1, Math.max(0, at + steps[event.key]()))];
      lay(shown.indexOf(to) + STEP);
      rove(to);
      to.shot.focus();
    } else if (event.key === 'Enter' || event.key === ' ') {
      event.preventDefault();
      view(at);
    }
  });
  grid.addEventListener('focusin', (event) => { const task = ofCard.get(event.target.closest('.card')); if (task) rove(task); });
  grid.addEventListener('click', (event) => {
    // With a modifier or another button the browser opens the file.
    if (event.button || event.altKey || event.ctrlKey || event.metaKey || event.shiftKey) return;
    const card = event.target.closest('.card');
    if (!card || event.target.closest('.facts') || String(getSelection()).length) return;
    event.preventDefault();
    view(shown.indexOf(ofCard.get(card)));
  });
  document.addEventListener('keydown', (event) => {
    if (event.key !== '/' || viewer.open || event.ctrlKey || event.metaKey || event.altKey || event.target.matches('input, select')) return;
    event.preventDefault();
    query.focus();
    query.select();
  });

  // -- the viewer ----------------------------------------------------------------------------------------------------

  const viewer = byId('viewer'), stage = byId('stage'), details = byId('details'), place = byId('place');
  let viewed = -1;
  const copyOf = (card, part) => card.querySelector(part)?.cloneNode(true);
  const view = (at) => {
    if (at < 0 || at >= shown.length) return;
    viewed = at;
    const { card, shot } = shown[at];
    const picture = card.querySelector('img'), clip = card.querySelector('video');
    const source = picture ? picture.dataset.video : clip?.getAttribute('src')?.replace(/#t=.*/, '') ?? clip?.dataset.src;
    if (source) {
      const player = document.createElement('video');
      player.controls = true;
      player.loop = true;
      player.preload = 'metadata';
      player.src = source;
      if (picture) player.poster = picture.src;
      player.setAttribute('aria-label', shot.getAttribute('aria-label'));
      player.addEventListener('error', () => stage.replaceChildren(gone()));
      stage.replaceChildren(player);
    } else {
      stage.replaceChildren(picture ? picture.cloneNode() : copyOf(card, '.none'));
    }
    const parts = ['.badge', '.prompt', '.error', '.facts'].map((part) => copyOf(card, part)).filter(Boolean);
    details.replaceChildren(...parts);
    place.textContent = `${(at + 1).toLocaleString('en')} of ${shown.length.toLocaleString('en')}`;
    byId('before').disabled = at === 0;
    byId('after').disabled = at === shown.length - 1;
    if (!viewer.open) viewer.showModal();
  };
  byId('before').addEventListener('click', () => view(viewed - 1));
  byId('after').addEventListener('click', () => view(viewed + 1));
  byId('close').addEventListener('click', () => viewer.close());
  viewer.addEventListener('click', (event) => { if (event.target === viewer) viewer.close(); });
  viewer.addEventListener('keydown', (event) => {
    // A player that has the focus takes the arrows for itself.
    if (event.target instanceof HTMLVideoElement || event.altKey || event.ctrlKey || event.metaKey || event.shiftKey) return;
    if (event.key === 'ArrowLeft') view(viewed - 1);
    else if (event.key === 'ArrowRight') view(viewed + 1);
  });
  viewer.addEventListener('close', () => {
    stage.replaceChildren();
    const task = shown[viewed];
    if (task) { lay(viewed + STEP); rove(task); task.shot.focus(); }
  });

  // -- first frames --------------------------------------------------------------------------------------------------

  const gone = () => {
    const note = document.createElement('span');
    note.className = 'none';
    note.textContent = 'The file cannot be loaded';
    return note;
  };
  const frames = new IntersectionObserver((entries) => {
    for (const { target, isIntersecting } of entries) {
      if (isIntersecting) {
        if (target.dataset.src) { target.src = target.dataset.src; delete target.dataset.src; }
        target.preload = 'metadata';
      } else if (target.readyState > 0) {
        // Browsers hold few players: one that is far away is given back.
        target.dataset.src = target.getAttribute('src');
        target.removeAttribute('src');
        target.preload = 'none';
        target.load();
      }
    }
  }, { rootMargin: '100% 0px' });
  for (const { shot } of tasks) { const clip = shot.querySelector('video'); if (clip) frames.observe(clip); }
  grid.addEventListener('error', (event) => {
    if (event.target.matches('video[src], img')) event.target.replaceWith(gone());
  }, true);

  // -- a look at the video under the pointer -------------------------------------------------------------------------

  const still = matchMedia('(prefers-reduced-motion: reduce)');
  let look = 0;
  const stop = (clip) => { clip.pause(); if (clip.classList.contains('look')) clip.remove(); else clip.currentTime = 0.1; };
  const play = (shot) => {
    const picture = shot.querySelector('img[data-video]');
    let clip = shot.querySelector('video');
    if (!clip && picture) {
      clip = document.createElement('video');
      clip.className = 'look';
      clip.src = picture.dataset.video;
      clip.muted = true;
      clip.playsInline = true;
      clip.setAttribute('aria-hidden', 'true');
      clip.addEventListener('error', () => clip.remove());
      shot.append(clip);
    }
    if (clip) { clip.loop = true; clip.play().catch(() => {}); }
  };
  grid.addEventListener('pointerover', (event) => {
    const shot = event.target.closest('.shot');
    if (!shot || still.matches || event.pointerType !== 'mouse' || shot.contains(event.relatedTarget)) return;
    clearTimeout(look);
    look = setTimeout(() => play(shot), 250);
    shot.addEventListener('pointerleave', () => { clearTimeout(look); const clip = shot.querySelector('video'); if (clip) stop(clip); }, { once: true });
  });

  apply();
  grid.classList.remove('raw');
})();
