// Attention maps: drawn on a canvas, small for all heads, large with tokens on both axes.

const COLOUR = "217, 130, 43";           // orange, seen on white and on black

// Rows look at columns; darker where more is taken: the root of the share, so that little shows.
export function drawMap(canvas, rows, cell = 1) {
  const n = rows.length, scale = cell > 1 ? Math.min(2, devicePixelRatio || 1) : 1;
  canvas.width = canvas.height = n * cell * scale;
  const pen = canvas.getContext("2d");
  pen.scale(scale, scale);
  for (const [t, row] of rows.entries()) {
    for (let s = 0; s <= t; s++) {
      if (row[s] < 0.003) continue;
      pen.fillStyle = `rgba(${COLOUR}, ${Math.sqrt(row[s]).toFixed(3)})`;
      pen.fillRect(s * cell, t * cell, cell, cell);
    }
  }
  return canvas;
}

// How a head looks on average: the shares of the token itself, the one before, the first.
export function habit(rows) {
  const later = rows.slice(2), sum = (of) => later.reduce((all, row, i) => all + of(row, i + 2), 0);
  const part = (of) => later.length ? sum(of) / later.length : 0;
  return { self: part((row, t) => row[t]), before: part((row, t) => row[t - 1]),
    first: part((row) => row[0]) };
}

// The large map in its box. `onPick(row, column)`: a cell was pressed or moved to.
export class AttentionMap {
  constructor(box, onPick) {
    Object.assign(this, { box, onPick, row: 0, column: 0, n: 0 });
    box.innerHTML = '<div class="sheet"><div class="corner"></div><div class="tops" ' +
      'aria-hidden="true"></div><div class="lefts" aria-hidden="true"></div><div class="cells">' +
      '<canvas role="img"></canvas><div class="mark"></div></div></div>';
    [this.tops, this.lefts, this.canvas, this.mark] = [".tops", ".lefts", "canvas", ".mark"]
      .map((name) => box.querySelector(name));
    this.canvas.addEventListener("click", ({ offsetX, offsetY }) =>
      this.pick(Math.floor(offsetY / this.cell), Math.floor(offsetX / this.cell)));
    box.addEventListener("keydown", (event) => this.onKey(event));
  }

  show(labels, rows, words) {
    this.n = rows.length;
    const wide = this.box.clientWidth - 110;
    this.cell = Math.max(13, Math.min(22, Math.floor(wide / this.n)));
    this.box.style.setProperty("--cell", `${this.cell}px`);
    for (const part of [this.tops, this.lefts]) {
      part.replaceChildren(...labels.map((text) =>
        Object.assign(document.createElement("span"), { textContent: text, title: text })));
    }
    drawMap(this.canvas, rows, this.cell);
    this.canvas.style.width = this.canvas.style.height = `${this.n * this.cell}px`;
    this.canvas.setAttribute("aria-label", words);
  }

  // Mark a cell; where the reader moves, the box scrolls with it.
  select(row, column, follow = false) {
    this.row = Math.max(0, Math.min(row, this.n - 1));
    this.column = Math.max(0, Math.min(column, this.row));
    const { mark, cell, box } = this;
    mark.style.transform = `translate(${this.column * cell}px, ${this.row * cell}px)`;
    for (const [part, at] of [[this.tops, this.column], [this.lefts, this.row]]) {
      part.querySelector(".on")?.classList.remove("on");
      part.children[at]?.classList.add("on");
    }
    if (!follow) return;
    const left = this.column * cell, top = this.row * cell;
    const [across, down] = [this.lefts.offsetWidth, this.tops.offsetHeight];
    if (left < box.scrollLeft) box.scrollLeft = left;
    if (left + cell + across > box.scrollLeft + box.clientWidth) {
      box.scrollLeft = left + cell + across - box.clientWidth;
    }
    if (top < box.scrollTop) box.scrollTop = top;
    if (top + cell + down > box.scrollTop + box.clientHeight) {
      box.scrollTop = top + cell + down - box.clientHeight;
    }
  }

  pick(row, column) {
    if (column > row) return;            // the future
    this.select(row, column, true);
    this.onPick(this.row, this.column);
  }

  onKey(event) {
    const { row, column, n } = this;
    const moves = { ArrowUp: [Math.max(row - 1, column), column], ArrowDown: [row + 1, column],
      ArrowLeft: [row, column - 1], ArrowRight: [row, Math.min(row, column + 1)],
      Home: [row, 0], End: [row, row], PageUp: [Math.max(row - 10, column), column],
      PageDown: [row + 10, column] };
    const move = moves[event.key];
    if (!move || !n) return;
    event.preventDefault();
    this.pick(Math.min(move[0], n - 1), Math.max(0, move[1]));
  }
}

// A table whose cells are pressed or moved through: rows and columns of {text, share, more, name}.
export class Grid {
  constructor(table, onPick) {
    Object.assign(this, { table, onPick, row: 0, column: 0 });
    table.addEventListener("click", (event) => {
      const cell = event.target.closest("td");
      if (cell) this.pick(cell.parentNode.sectionRowIndex, cell.cellIndex - 1);
    });
    table.addEventListener("keydown", (event) => this.onKey(event));
  }

  show(corner, columns, heads) {
    const { table } = this, line = (cells) => `<tr role="row">${cells.join("")}</tr>`;
    const cell = '<td role="gridcell" tabindex="-1"></td>';
    const top = [corner, ...columns].map(() => '<th scope="col" role="columnheader"></th>');
    const row = line(['<th scope="row" role="rowheader"></th>', ...columns.map(() => cell)]);
    table.innerHTML = `<thead role="rowgroup">${line(top)}</thead><tbody role="rowgroup">` +
      `${heads.map(() => row).join("")}</tbody>`;
    [...table.tHead.rows[0].cells].forEach((one, i) => {
      one.textContent = i ? columns[i - 1] : corner;
    });
    this.rows = [...table.tBodies[0].rows];
    this.rows.forEach(({ cells: [head] }, i) => { head.textContent = head.title = heads[i]; });
    this.row = this.column = 0;
    this.cellAt(0, 0).tabIndex = 0;
  }

  cellAt(row, column) { return this.rows[row].cells[column + 1]; }

  // A cell: its text, a smaller line, and a share from -1 to 1 that colours it.
  set(row, column, { text, more = "", share, name = "" }) {
    const cell = this.cellAt(row, column), small = document.createElement("small");
    small.textContent = more;
    cell.replaceChildren(text, ...(more ? [small] : []));
    cell.className = [share < 0 && "minus", name].filter(Boolean).join(" ");
    cell.style.setProperty("--part", Math.min(1, Math.abs(share)).toFixed(3));
  }

  pick(row, column, { focus = true, tell = true } = {}) {
    const before = this.cellAt(this.row, this.column);
    before.tabIndex = -1;
    before.removeAttribute("aria-selected");
    Object.assign(this, { row, column });
    const cell = this.cellAt(row, column);
    cell.tabIndex = 0;
    cell.setAttribute("aria-selected", "true");
    if (focus) cell.focus({ preventScroll: true });
    keepInSight(cell);
    if (tell) this.onPick(row, column);
  }

  onKey(event) {
    const { row, column, rows } = this, last = rows?.[0] ? rows[0].cells.length - 2 : 0;
    const moves = { ArrowUp: [row - 1, column], ArrowDown: [row + 1, column],
      ArrowLeft: [row, column - 1], ArrowRight: [row, column + 1], Home: [row, 0],
      End: [row, last], PageUp: [row - 8, column], PageDown: [row + 8, column],
      Enter: [row, column], " ": [row, column] };
    const move = moves[event.key];
    if (!move || !rows?.length) return;
    event.preventDefault();
    const within = (at, most) => Math.max(0, Math.min(at, most));
    this.pick(within(move[0], rows.length - 1), within(move[1], last));
  }
}

// Scroll the box of a cell, not the page, until the cell stands clear of the heads.
function keepInSight(cell) {
  const box = cell.closest(".scroll"), table = cell.closest("table");
  const head = table.tHead.offsetHeight, side = cell.parentNode.cells[0].offsetWidth;
  const top = cell.offsetTop - head, left = cell.offsetLeft - side;
  if (top < box.scrollTop) box.scrollTop = top;
  const bottom = cell.offsetTop + cell.offsetHeight - box.clientHeight;
  if (bottom > box.scrollTop) box.scrollTop = bottom;
  if (left < box.scrollLeft) box.scrollLeft = left;
  const right = cell.offsetLeft + cell.offsetWidth - box.clientWidth;
  if (right > box.scrollLeft) box.scrollLeft = right;
}
