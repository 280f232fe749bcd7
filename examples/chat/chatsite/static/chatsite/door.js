// The door: remember the name in this tab (other tabs may be other people), and go to the room.

const form = document.getElementById("come-in");
const name = document.getElementById("name");
const room = document.getElementById("room");

name.value = sessionStorage.getItem("name") ?? "";

function mark() {
  for (const button of document.querySelectorAll(".choice")) {
    button.classList.toggle("chosen", button.dataset.room === room.value);
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
