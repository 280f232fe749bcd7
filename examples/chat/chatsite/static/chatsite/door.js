// The door: it keeps the name for this tab only, as another tab may be another visitor, and opens the room.

const form = document.getElementById("come-in");
const name = document.getElementById("name");
const room = document.getElementById("room");

name.value = sessionStorage.getItem("name") ?? "";

function mark() {
  for (const button of document.querySelectorAll(".choice")) {
    button.ariaPressed = String(button.dataset.room === room.value);
  }
}

for (const button of document.querySelectorAll(".choice")) {
  button.addEventListener("click", () => {
    room.value = button.dataset.room;
    mark();
  });
}
room.addEventListener("input", mark);
mark();

form.addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem("name", name.value.trim());
  location.href = `room/${encodeURIComponent(room.value)}/`;
});
