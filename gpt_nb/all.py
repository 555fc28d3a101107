"Every public name of the library: `from gpt_nb.all import *`."
