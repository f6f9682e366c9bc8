/* A shared library of the target's own: a debugger finds it only by way of the target's root. */
#include <stdio.h>
#include "../greet.h"

int greet_in_c(char *text, int size, const char *whom, int number) {
	int written = snprintf(text, size, "hello %s, you are visitor %d", whom, number);
	return written;
}
