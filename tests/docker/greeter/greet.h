int greet_in_c(char *text, int size, const char *whom, int number);
